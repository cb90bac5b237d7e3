//! An operator for tests of state, which declares state and never runs.

use super::Layout;
use crate::Upstream;
use crate::error::EngineError;
use crate::operator::{OperatorSpec, Running, StartContext, StateSpec};
use crate::runtime::state_reader::StateReader;
use arrow::datatypes::{Schema, SchemaRef};
use highwater_protocol::ids::OperatorId;
use std::fmt::{self, Write};
use std::sync::Arc;

/// Declares state with this operator id and layout.
#[derive(Debug)]
pub struct Keeps(pub OperatorId, pub Layout);

impl OperatorSpec for Keeps {
    fn describe(&self) -> String {
        "keep".into()
    }

    fn identify(&self, _: &mut dyn Write) -> fmt::Result {
        Ok(())
    }

    fn state(&self) -> Option<StateSpec> {
        Some(StateSpec { operator: self.0, kind: "keeps", version: 1, layout: self.1, keeps: "entries" })
    }

    fn state_reader(&self) -> Result<Option<Box<dyn StateReader>>, EngineError> {
        Err(EngineError::Internal("nobody looks".into()))
    }

    fn watermark(&self) -> Option<(OperatorId, &[Upstream])> {
        None
    }

    fn drops_late(&self) -> bool {
        false
    }

    fn output(&self, _: &[SchemaRef]) -> Result<SchemaRef, EngineError> {
        Ok(Arc::new(Schema::empty()))
    }

    fn start(&self, _: &StartContext<'_>) -> Result<Running, EngineError> {
        Err(EngineError::Internal("it does not run".into()))
    }
}
