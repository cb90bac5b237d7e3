//! Executing one task of a plan.
