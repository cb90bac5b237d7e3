//! Turns constant arguments into literals before types are derived from them, and adds size checks to calls before constant
//! folding.
//!
//! Owns: finding them. Does not own: folding anything else (DataFusion's simplifier). The type of `round(x, 2)` depends
//! on the 2, around which DataFusion's analyzer puts a cast: without a literal, planned and computed types would differ.

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Cast, Expr, LogicalPlan};
use highwater_functions::bounds::bounded;

/// Returns the plan with literals and size checks. Schemas are recomputed if an argument became a literal.
pub fn literal_arguments(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let folded = plan.transform_up_with_subqueries(|node| {
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            // A grouping set has no name to preserve; names of its members come from the node.
            if matches!(expr, Expr::GroupingSet(_)) {
                return expr.transform_up(bounded);
            }
            let name = names.save(&expr);
            Ok(expr.transform_up(argument_and_bounds)?.update_data(|expr| name.restore(expr)))
        })
    })?;
    if !folded.transformed {
        return Ok(folded);
    }
    let plan = folded.data.transform_up_with_subqueries(|node| node.recompute_schema().map(Transformed::yes))?.data;
    Ok(Transformed::yes(plan))
}

fn argument_and_bounds(expr: Expr) -> Result<Transformed<Expr>> {
    call(expr)?.transform_data(bounded)
}

fn call(expr: Expr) -> Result<Transformed<Expr>> {
    let Expr::ScalarFunction(mut call) = expr else { return Ok(Transformed::no(expr)) };
    let mut changed = false;
    for argument in &mut call.args {
        // A literal that cannot be cast keeps its cast, which fails when it is computed.
        if let Expr::Cast(Cast { expr, field }) = argument
            && let Expr::Literal(value, metadata) = expr.as_ref()
            && let Ok(value) = value.cast_to(field.data_type())
        {
            *argument = Expr::Literal(value, metadata.clone());
            changed = true;
        }
    }
    let call = Expr::ScalarFunction(call);
    Ok(if changed { Transformed::yes(call) } else { Transformed::no(call) })
}
