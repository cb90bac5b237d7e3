//! Who may connect and who may call what: TLS, tokens, roles, and the rule of every RPC.
