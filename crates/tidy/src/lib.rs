//! Rules of this workspace that neither the compiler nor clippy knows, as tests: see `tests/structure`.
