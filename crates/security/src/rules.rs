//! The rule of every call, gRPC and HTTP: one table.
//!
//! A path that is not in it is refused. The test below reads the services' descriptors and fails if an RPC has no rule;
//! the routes of the HTTP port are looked up by their templates.

use crate::tokens::Role;

/// Who may make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Anyone, known or not.
    Open,
    /// A client of this role or more.
    Client(Role),
    /// Executors, calling their driver.
    Executor,
    /// Executors, calling one another.
    Peer,
}

const VIEWER: Rule = Rule::Client(Role::Viewer);
const OPERATOR: Rule = Rule::Client(Role::Operator);
const ADMIN: Rule = Rule::Client(Role::Admin);

/// The effect of a call determines its role: read (viewer), run (operator), delete (admin). SubmitQuery with `replace`
/// deletes, too: its handler requires admin.
pub const RULES: &[(&str, Rule)] = &[
    ("/grpc.health.v1.Health/Check", Rule::Open),
    ("/grpc.health.v1.Health/Watch", Rule::Open),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", VIEWER),
    ("/highwater.v1.QueryService/ValidateQuery", VIEWER),
    ("/highwater.v1.QueryService/ExplainQuery", VIEWER),
    ("/highwater.v1.QueryService/ListQueries", VIEWER),
    ("/highwater.v1.QueryService/GetQueryStatus", VIEWER),
    ("/highwater.v1.QueryService/StreamProgress", VIEWER),
    ("/highwater.v1.QueryService/GetLag", VIEWER),
    ("/highwater.v1.QueryService/SubmitQuery", OPERATOR),
    ("/highwater.v1.QueryService/StartQuery", OPERATOR),
    ("/highwater.v1.QueryService/StopQuery", OPERATOR),
    ("/highwater.v1.QueryService/DropQuery", ADMIN),
    ("/highwater.v1.ClusterService/RegisterExecutor", Rule::Executor),
    ("/highwater.v1.ClusterService/RenewLease", Rule::Executor),
    ("/highwater.v1.ClusterService/StreamTasks", Rule::Executor),
    ("/highwater.v1.ClusterService/FetchState", Rule::Executor),
    ("/highwater.v1.ClusterService/FetchFile", Rule::Executor),
    ("/highwater.v1.ClusterService/PutStateDelta", Rule::Executor),
    ("/highwater.v1.ExchangeService/PushBatches", Rule::Peer),
    ("/health", Rule::Open),
    ("/metrics", VIEWER),
    ("/api/v1/queries", VIEWER),
    ("/api/v1/queries/{name}/status", VIEWER),
    ("/api/v1/queries/{name}/lag", VIEWER),
    ("/api/v1/queries/{name}/progress", VIEWER),
];

/// Returns the rule of a path; `None` if it has none.
pub fn of(path: &str) -> Option<Rule> {
    RULES.iter().find(|(known, _)| *known == path).map(|(_, rule)| *rule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use prost_types::FileDescriptorSet;
    use std::collections::BTreeSet;

    /// Paths of all RPCs that the servers serve.
    fn served() -> BTreeSet<String> {
        let sets = [
            highwater_proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        ];
        let files = sets.into_iter().flat_map(|set| FileDescriptorSet::decode(set).unwrap().file);
        let mut paths = BTreeSet::new();
        for file in files {
            for service in &file.service {
                for method in &service.method {
                    paths.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
        paths
    }

    #[test]
    fn every_rpc_has_one_rule_and_every_rule_an_rpc_or_a_route() {
        let served = served();
        let missing: Vec<_> = served.iter().filter(|path| of(path).is_none()).collect();
        assert!(missing.is_empty(), "RPCs without a rule in rules.rs: {missing:?}");
        let rpcs: Vec<&str> = RULES.iter().map(|(path, _)| *path).filter(|path| path.contains(".v1.")).collect();
        assert_eq!(rpcs.len(), rpcs.iter().collect::<BTreeSet<_>>().len(), "a path has two rules");
        let unknown: Vec<_> = rpcs.iter().filter(|path| !served.contains(**path)).collect();
        assert!(unknown.is_empty(), "rules of RPCs that do not exist: {unknown:?}");
    }

    #[test]
    fn only_health_checks_are_open() {
        for (path, rule) in RULES.iter().filter(|(_, rule)| *rule == Rule::Open) {
            assert!(path.contains("ealth"), "{path} is {rule:?}");
        }
    }
}
