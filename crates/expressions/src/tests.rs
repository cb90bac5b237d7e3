//! Edge values of every operator.
