//! Choices made beforehand: a list of numbers that a generator reads one by one.
//!
//! Invariant: where the list ends every choice is the first one, so that a shorter list, or one of smaller numbers, is a
//! simpler case: this is how cases shrink.

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

    /// One of so many.
    pub fn pick(&mut self, of: usize) -> usize {
        self.next() % of
    }

    pub fn one<'b, T>(&mut self, of: &'b [T]) -> &'b T {
        &of[self.pick(of.len())]
    }

    /// Once in so many times; not where the tape has ended.
    pub fn rarely(&mut self, of: usize) -> bool {
        self.pick(of) == of - 1
    }
}
