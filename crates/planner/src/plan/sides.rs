//! The two sides of a join.
//!
//! Owns: their order, and the join's output.

use datafusion::common::JoinType;
use datafusion::logical_expr::{Expr, Join, LogicalPlan};
use highwater_dataflow::JoinOutput;

/// The sides of a join, in the order of the output.
pub struct Sides<'a> {
    pub inputs: [&'a LogicalPlan; 2],
    pub on: Vec<[&'a Expr; 2]>,
    pub output: JoinOutput,
}

impl<'a> Sides<'a> {
    pub fn of(join: &'a Join) -> Self {
        let (output, swap) = match join.join_type {
            JoinType::Inner => (JoinOutput::Pairs { unmatched: [false, false] }, false),
            JoinType::Left => (JoinOutput::Pairs { unmatched: [true, false] }, false),
            JoinType::Right => (JoinOutput::Pairs { unmatched: [false, true] }, false),
            JoinType::Full => (JoinOutput::Pairs { unmatched: [true, true] }, false),
            JoinType::LeftSemi => (JoinOutput::Semi, false),
            JoinType::RightSemi => (JoinOutput::Semi, true),
            JoinType::LeftAnti => (JoinOutput::Anti, false),
            JoinType::RightAnti => (JoinOutput::Anti, true),
            JoinType::LeftMark => (JoinOutput::Mark, false),
            JoinType::RightMark => (JoinOutput::Mark, true),
        };
        let mut inputs: [&LogicalPlan; 2] = [&join.left, &join.right];
        let mut on: Vec<[&Expr; 2]> = join.on.iter().map(|(left, right)| [left, right]).collect();
        if swap {
            inputs.swap(0, 1);
            on.iter_mut().for_each(|pair| pair.swap(0, 1));
        }
        Self { inputs, on, output }
    }
}
