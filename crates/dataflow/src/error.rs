//! Errors of a running dataflow.

use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use highwater_expressions::{ExpressionError, type_name};
use highwater_functions::bounds::TooLarge;
use highwater_protocol::error::ErrorKind;
use highwater_protocol::ids::{AttemptId, EdgeId, OperatorId, ShardId, StageId, TaskId};
use highwater_protocol::state_delta::DeltaError;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum EngineError {
    /// An expression failed on the data: a cast, an overflow, a division by zero.
    #[error("the query's expressions failed on its data: {0}; guard the expression (TRY_CAST, NULLIF, CASE)")]
    Expression(DataFusionError),
    #[error("the query's expressions failed on its data: {0}; guard the expression (TRY_CAST, NULLIF, CASE)")]
    Value(ExpressionError),
    /// An expression failed on a row that an operator with state has made, so that no single record is to blame.
    #[error(
        "an expression failed on a row of {operator}, {row}: {reason}; guard the expression (TRY_CAST, NULLIF, CASE)"
    )]
    ValueOfRow { operator: String, row: String, reason: String },
    #[error("the query's expressions failed on its data: {0}")]
    TooLarge(#[from] TooLarge),
    #[error("the query's data cannot be processed: {0}")]
    Arrow(#[from] ArrowError),
    #[error(
        "sink `{sink}`: two live rows under one key {key}; a sink with a PRIMARY KEY holds one row per key. Aggregate \
         or deduplicate to one row per key, add columns to the key, drop the PRIMARY KEY, or SET on_key_conflict = 'warn' \
         to show the greatest of the rows"
    )]
    DuplicateKey { sink: String, key: String },
    #[error(
        "sink `{sink}`: NULL in PRIMARY KEY column `{column}`; filter such rows out (WHERE {column} IS NOT NULL) or \
         replace them (COALESCE)"
    )]
    NullKey { sink: String, column: String },
    #[error(
        "the query exceeds its limit of {limit_bytes} bytes of memory on this executor, at {what}; \
        bound its state (a window over a table with WATERMARK, state_ttl), make batches smaller \
         (max_offsets_per_trigger), add executors, or allow more (executor --query-memory)"
    )]
    OverMemory { what: String, limit_bytes: u64 },
    #[error(
        "the tables that rows look up take {bytes} bytes of this executor's memory, but the maximum is {limit_bytes}; use \
         smaller ones, join a Kafka table with PRIMARY KEY instead, or allow more (executor --query-memory)"
    )]
    LookupsTooLarge { bytes: u64, limit_bytes: u64 },
    #[error("state is damaged: {0}")]
    Delta(#[from] DeltaError),
    #[error(
        "there is state of operator {0}, which keeps none in this plan; the checkpoint is of another plan: submit the query \
         again with --replace"
    )]
    UndeclaredState(OperatorId),
    /// A key or value of state is shorter than its layout.
    #[error("state is damaged: {0} is cut off; see whether the checkpoint is whole (highwater checkpoint verify)")]
    CutOff(&'static str),
    /// `key` in hex.
    #[error(
        "state is damaged: operator {operator}, shard {shard}, key {key}: {cause}; see whether the checkpoint is whole \
         (highwater checkpoint verify)"
    )]
    DamagedEntry { operator: OperatorId, shard: ShardId, key: String, cause: String },
    #[error("internal: {operator}: a row is deleted that was never inserted")]
    NeverInserted { operator: String },
    #[error("internal: {0}")]
    Fault(#[from] Fault),
    #[error("state of attempt {found} cannot be committed as attempt {wanted}")]
    WrongAttempt { wanted: AttemptId, found: AttemptId },
    #[error("this executor does not hold the state of shard {0}")]
    MissingShard(ShardId),
    #[error("task {0} is not in the plan, or its stage is not in the dataflow")]
    UnknownTask(TaskId),
    #[error("edge {0} is not an input of this task")]
    UnknownEdge(EdgeId),
    #[error("internal: {0}")]
    Internal(String),
}

/// Plans or rows that are impossible for any query and data, which is a fault of this program.
#[derive(Debug, Error)]
pub enum Fault {
    #[error("{what} was planned for rows of {expected:?} and gets {found:?}")]
    Rows { what: String, expected: Vec<DataType>, found: Vec<DataType> },
    #[error("{what} takes {expected} inputs and got {found}")]
    Inputs { what: &'static str, expected: usize, found: usize },
    #[error("{what} is of type {found}")]
    Type { what: &'static str, found: DataType },
    #[error("{0} retracts rows")]
    Retracts(&'static str),
    #[error("{what} has no {lacks}")]
    Lacks { what: &'static str, lacks: &'static str },
    #[error("stage {0} is not in the dataflow")]
    NoStage(StageId),
}

impl From<DataFusionError> for EngineError {
    fn from(error: DataFusionError) -> Self {
        match TooLarge::find(&error) {
            Some(too_large) => Self::TooLarge(too_large.clone()),
            None => match ExpressionError::find(&error) {
                Some(of_value) => Self::Value(of_value.clone()),
                None => Self::Expression(error),
            },
        }
    }
}

impl EngineError {
    /// The same error, as one of an expression of this text and type if it is an error of values.
    pub fn of_expression(self, expression: &str, data_type: &DataType) -> Self {
        match self {
            Self::Arrow(error) => ExpressionError::of(error.into(), expression, &type_name(data_type)).into(),
            other => other,
        }
    }

    /// True if a single row is to blame: an expression has no value for it, or one that is too large.
    pub fn is_of_a_row(&self) -> bool {
        matches!(self, Self::Value(_) | Self::TooLarge(_))
    }

    /// Returns the cause alone, for a message that names the record and the remedy.
    pub fn reason(&self) -> String {
        match self {
            Self::Value(error) => error.to_string(),
            Self::TooLarge(error) => error.to_string(),
            other => other.to_string(),
        }
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Expression(_)
            | Self::Value(_)
            | Self::ValueOfRow { .. }
            | Self::TooLarge(_)
            | Self::Arrow(_)
            | Self::DuplicateKey { .. }
            | Self::NullKey { .. }
            | Self::OverMemory { .. }
            | Self::LookupsTooLarge { .. } => ErrorKind::Fix,
            Self::Delta(_) | Self::CutOff(_) | Self::DamagedEntry { .. } | Self::UndeclaredState(_) => ErrorKind::Fatal,
            Self::NeverInserted { .. } | Self::Fault(_) => ErrorKind::Fatal,
            Self::WrongAttempt { .. } | Self::MissingShard(_) => ErrorKind::Retry,
            Self::UnknownTask(_) | Self::UnknownEdge(_) | Self::Internal(_) => ErrorKind::Fatal,
        }
    }
}
