//! State of one query in one executor.
