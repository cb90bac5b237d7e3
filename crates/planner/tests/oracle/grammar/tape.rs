//! A list of numbers from which a generator takes its choices one by one.
//!
//! Invariant: after the end of the list every choice is the first one. A shorter list, or one with smaller numbers, is
//! thus a simpler case, and cases can shrink.

#[derive(Debug)]
pub struct Tape<'a> {
    choices: &'a [u16],
}

impl<'a> Tape<'a> {
    pub fn new(choices: &'a [u16]) -> Self {
        Self { choices }
    }

    fn next(&mut self) -> usize {
        let Some((first, rest)) = self.choices.split_first() else { return 0 };
        self.choices = rest;
        usize::from(*first)
    }

    /// Returns a number below `of`.
    pub fn pick(&mut self, of: usize) -> usize {
        self.next() % of
    }

    pub fn one<'b, T>(&mut self, of: &'b [T]) -> &'b T {
        &of[self.pick(of.len())]
    }

    /// Returns true once in `of` times, and never after the end of the tape.
    pub fn rarely(&mut self, of: usize) -> bool {
        self.pick(of) == of - 1
    }
}
