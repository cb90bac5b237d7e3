//! Runs the same work on many items on several threads.
//!
//! Owns: handing items to threads, and returning results in the items' order. Does not own: the number of threads.

use std::sync::{Mutex, PoisonError};

/// Runs `work` on all items on `threads` threads, including the calling one. Returns the results in the items' order.
///
/// # Errors
/// The error of the first item, in their order, whose work failed. Work on the other items is completed first.
///
/// # Panics
/// If `work` panics.
pub fn in_parallel<T: Send, R: Send, E: Send>(
    items: Vec<T>,
    threads: usize,
    work: impl Fn(T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let threads = threads.min(items.len());
    if threads <= 1 {
        return items.into_iter().map(work).collect();
    }
    let mut results: Vec<Option<Result<R, E>>> = items.iter().map(|_| None).collect();
    let rest = Mutex::new(items.into_iter().zip(results.iter_mut()));
    let worker = || {
        while let Some((item, result)) = { rest.lock().unwrap_or_else(PoisonError::into_inner).next() } {
            *result = Some(work(item));
        }
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(worker)).collect();
        worker();
        for other in others {
            other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    drop(rest);
    results.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::Barrier;

    #[test]
    fn results_keep_the_order_and_the_first_error_wins() {
        let items: Vec<u32> = (0..100).collect();
        for threads in [0, 1, 3, 200] {
            let doubled = in_parallel(items.clone(), threads, |n| Ok::<_, u32>(n * 2));
            assert_eq!(doubled, Ok(items.iter().map(|n| n * 2).collect()));
            let failed = in_parallel(items.clone(), threads, |n| if n >= 40 { Err(n) } else { Ok(()) });
            assert_eq!(failed, Err(40));
            assert_eq!(in_parallel(Vec::new(), threads, Ok::<u32, ()>), Ok(Vec::new()));
        }
    }

    #[test]
    #[should_panic(expected = "the third is broken")]
    fn a_panic_keeps_its_message() {
        let _ = in_parallel(vec![1, 2, 3], 3, |n| if n == 3 { panic!("the third is broken") } else { Ok::<_, ()>(n) });
    }

    #[test]
    fn work_uses_the_requested_number_of_threads() {
        let together = Barrier::new(3);
        let threads = in_parallel(vec![(), (), ()], 3, |()| {
            together.wait();
            Ok::<_, ()>(format!("{:?}", std::thread::current().id()))
        });
        assert_eq!(threads.map(|ids| ids.into_iter().collect::<BTreeSet<_>>().len()), Ok(3));
    }
}
