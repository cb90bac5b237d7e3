//! One file per group of commands. Does not own: their arguments (`cli`), selecting one (`dispatch`).

pub mod checkpoint;
pub mod compile;
pub mod control;
pub mod inspect;
pub mod progress;
pub mod run;
pub mod serve;
pub mod state;
mod stored;
pub mod submit;
