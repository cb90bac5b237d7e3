//! Aggregates OVER a sliding frame: those that cannot retract a row are computed again from the whole frame.
//!
//! Owns: the rows of a frame, for such aggregates. Does not own: the bounds of frames (DataFusion's window functions).
//! Invariant: rows leave a frame in the order they came into it.

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, Signature, WindowFunctionDefinition,
};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use highwater_operators::over::FrameSum;
use std::collections::VecDeque;
use std::sync::Arc;

/// Returns the same call with an aggregate that supports any frame.
pub fn over_any_frame(expr: Expr) -> Expr {
    match expr {
        Expr::Alias(mut alias) => {
            alias.expr = Box::new(over_any_frame(*alias.expr));
            Expr::Alias(alias)
        }
        Expr::WindowFunction(mut call) => {
            if let WindowFunctionDefinition::AggregateUDF(inner) = &call.fun {
                let wrapped = AggregateUDF::from(Sliding { inner: inner.clone() });
                call.fun = WindowFunctionDefinition::AggregateUDF(Arc::new(wrapped));
            }
            Expr::WindowFunction(call)
        }
        other => other,
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Sliding {
    inner: Arc<AggregateUDF>,
}

impl Sliding {
    /// `None` for functions that DataFusion computes exactly, and for those of several or of distinct values.
    fn running(&self, args: &AccumulatorArgs) -> Option<FrameSum> {
        let [argument] = args.expr_fields else { return None };
        let is_count = self.inner.name() == "count";
        if is_count || args.is_distinct {
            return None;
        }
        FrameSum::new(self.inner.name(), argument.data_type(), args.return_field.data_type())
    }
}

impl AggregateUDFImpl for Sliding {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn return_field(&self, arguments: &[FieldRef]) -> Result<FieldRef> {
        self.inner.return_field(arguments)
    }

    fn is_nullable(&self) -> bool {
        self.inner.is_nullable()
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match self.running(&args) {
            Some(running) => Ok(Box::new(running)),
            None => self.inner.accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if let Some(running) = self.running(&args) {
            return Ok(Box::new(running));
        }
        let making = Making::of(&self.inner, &args);
        let own = self.inner.create_sliding_accumulator(args);
        Ok(match own {
            Ok(own) if own.supports_retract_batch() => own,
            _ => {
                // Fails now if the accumulator cannot be made at all.
                making.make()?;
                Box::new(Frame { making, rows: VecDeque::new() })
            }
        })
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arguments)
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.inner.default_value(data_type)
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.inner.supports_null_handling_clause()
    }

    fn supports_within_group_clause(&self) -> bool {
        self.inner.supports_within_group_clause()
    }
}

/// Owned copy of the arguments for an accumulator.
#[derive(Debug)]
struct Making {
    function: Arc<AggregateUDF>,
    return_field: FieldRef,
    schema: Schema,
    ignore_nulls: bool,
    order_bys: Vec<PhysicalSortExpr>,
    is_reversed: bool,
    name: String,
    is_distinct: bool,
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    expr_fields: Vec<FieldRef>,
}

impl Making {
    fn of(function: &Arc<AggregateUDF>, args: &AccumulatorArgs) -> Self {
        Self {
            function: function.clone(),
            return_field: args.return_field.clone(),
            schema: args.schema.clone(),
            ignore_nulls: args.ignore_nulls,
            order_bys: args.order_bys.to_vec(),
            is_reversed: args.is_reversed,
            name: args.name.to_string(),
            is_distinct: args.is_distinct,
            exprs: args.exprs.to_vec(),
            expr_fields: args.expr_fields.to_vec(),
        }
    }

    fn make(&self) -> Result<Box<dyn Accumulator>> {
        self.function.accumulator(AccumulatorArgs {
            return_field: self.return_field.clone(),
            schema: &self.schema,
            ignore_nulls: self.ignore_nulls,
            order_bys: &self.order_bys,
            is_reversed: self.is_reversed,
            name: &self.name,
            is_distinct: self.is_distinct,
            exprs: &self.exprs,
            expr_fields: &self.expr_fields,
        })
    }
}

/// The rows of a frame, as batches of argument columns in the order of arrival.
#[derive(Debug)]
struct Frame {
    making: Making,
    rows: VecDeque<Vec<ArrayRef>>,
}

impl Accumulator for Frame {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.rows.push_back(values.to_vec());
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let mut gone = values.first().map_or(0, |column| column.len());
        while let Some(piece) = self.rows.front_mut() {
            let length = piece.first().map_or(0, |column| column.len());
            if length > gone {
                piece.iter_mut().for_each(|column| *column = column.slice(gone, length - gone));
                break;
            }
            gone -= length;
            self.rows.pop_front();
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut fresh = self.making.make()?;
        self.rows.iter().try_for_each(|piece| fresh.update_batch(piece))?;
        fresh.evaluate()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.rows.iter().flatten().map(|column| column.get_array_memory_size()).sum::<usize>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let mut fresh = self.making.make()?;
        self.rows.iter().try_for_each(|piece| fresh.update_batch(piece))?;
        fresh.state()
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        datafusion::common::exec_err!("frames of {} are not merged", self.making.name)
    }
}
