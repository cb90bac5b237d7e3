//! Security from outside: TLS, tokens, roles, and where a process may listen.

mod listening;
mod pki;
mod reload;
mod wire;

use crate::table::Tables;
use highwater_testkit::Highwater;
use pki::{Ca, flags};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Output;
use tokio::net::TcpStream;
use tonic::Code;
use wire::{admitted, all_rpcs, block_on, call, connect, get, get_over};

const LOCAL: &[&str] = &["127.0.0.1", "localhost"];
const ROLES: [&str; 4] = ["viewer", "operator", "admin", "executor"];

/// Writes a token file: each role's token is its name plus `suffix`.
fn write_tokens(path: &Path, suffix: &str) {
    let entry = |role: &str| {
        let hash: String = Sha256::digest(format!("{role}{suffix}")).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("[[token]]\nname = \"{role}\"\nrole = \"{role}\"\nsha256 = \"{hash}\"\n")
    };
    std::fs::write(path, ROLES.map(entry).concat()).unwrap();
}

/// A driver with TLS, client certificates and tokens.
struct Secured {
    cluster: Highwater,
    ca: Ca,
    tokens: PathBuf,
}

impl Secured {
    fn start() -> Self {
        let mut cluster = Highwater::stopped();
        let ca = Ca::new(cluster.path(), "ca");
        let tokens = cluster.path().join("tokens.toml");
        write_tokens(&tokens, "");
        let driver = ca.issue("driver", LOCAL);
        let mut args = flags(&driver).to_vec();
        args.extend(["--tls-client-ca", ca.file.to_str().unwrap(), "--tokens", tokens.to_str().unwrap()]);
        cluster.start_driver_with(&[], &args);
        cluster.url = cluster.url.replace("http://", "https://");
        cluster.environment = vec![("HIGHWATER_TLS_CA", ca.file.to_str().unwrap().to_string())];
        let secured = Self { cluster, ca, tokens };
        secured.ready();
        secured
    }

    fn ready(&self) {
        assert!(self.run("viewer", &["ls"]).status.success(), "{}", self.cluster.logs());
    }

    fn run(&self, token: &str, args: &[&str]) -> Output {
        self.cluster.command(args).env("HIGHWATER_TOKEN", token).output().unwrap()
    }

    /// Exit code and stderr of a client command.
    fn code(&self, token: &str, args: &[&str]) -> (i32, String) {
        let output = self.run(token, args);
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Who may call what. The callers, in this order: without credentials, with a wrong token, with the tokens of viewer,
/// operator, admin and executor, and with a certificate alone.
const EXPECTED: &[(&str, &str)] = &[
    ("/grpc.health.v1.Health/Check", "yyyyyyy"),
    ("/grpc.health.v1.Health/Watch", "yyyyyyy"),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "??yyyn?"),
    ("/highwater.v1.ClusterService/FetchFile", "??nnnyy"),
    ("/highwater.v1.ClusterService/FetchState", "??nnnyy"),
    ("/highwater.v1.ClusterService/PutStateDelta", "??nnnyy"),
    ("/highwater.v1.ClusterService/RegisterExecutor", "??nnnyy"),
    ("/highwater.v1.ClusterService/RenewLease", "??nnnyy"),
    ("/highwater.v1.ClusterService/StreamTasks", "??nnnyy"),
    ("/highwater.v1.ExchangeService/PushBatches", "n?nnnnn"),
    ("/highwater.v1.QueryService/DropQuery", "??nnyn?"),
    ("/highwater.v1.QueryService/ExplainQuery", "??yyyn?"),
    ("/highwater.v1.QueryService/GetLag", "??yyyn?"),
    ("/highwater.v1.QueryService/GetQueryStatus", "??yyyn?"),
    ("/highwater.v1.QueryService/ListQueries", "??yyyn?"),
    ("/highwater.v1.QueryService/StartQuery", "??nyyn?"),
    ("/highwater.v1.QueryService/StopQuery", "??nyyn?"),
    ("/highwater.v1.QueryService/StreamProgress", "??yyyn?"),
    ("/highwater.v1.QueryService/SubmitQuery", "??nyyn?"),
    ("/highwater.v1.QueryService/ValidateQuery", "??yyyn?"),
];

#[test]
fn every_call_requires_the_role_in_the_table() {
    let paths: Vec<&str> = EXPECTED.iter().map(|(path, _)| *path).collect();
    assert_eq!(all_rpcs(), paths, "every RPC is expected here, and no other");
    let secured = Secured::start();
    let executor = secured.ca.issue("executor", LOCAL);
    block_on(async {
        let plain = connect(&secured.cluster.url, &secured.ca.client(None)).await.unwrap();
        let certified = connect(&secured.cluster.url, &secured.ca.client(Some(&executor))).await.unwrap();
        for (path, expected) in EXPECTED {
            let mut found = String::new();
            for token in [None, Some("wrong"), Some("viewer"), Some("operator"), Some("admin"), Some("executor")] {
                found.push(admitted(&plain, path, token).await);
            }
            found.push(admitted(&certified, path, None).await);
            assert_eq!(found, *expected, "{path}");
        }
        let routes = ["status", "lag", "progress"].map(|what| format!("/api/v1/queries/none/{what}"));
        let routes = routes.iter().map(String::as_str).chain(["/metrics", "/api/v1/queries"]);
        for route in routes {
            for (token, refused) in
                [(None, Some(401)), (Some("wrong"), Some(401)), (Some("executor"), Some(403)), (Some("viewer"), None)]
            {
                let (status, body) = get(&secured.cluster.http, &secured.ca.file, route, token).await;
                assert_eq!(refused.unwrap_or(status), status, "{route} with {token:?}: {body}");
                assert!(refused.is_some() || matches!(status, 200 | 404), "{route} with {token:?}: {status} {body}");
            }
        }
        assert_eq!(get(&secured.cluster.http, &secured.ca.file, "/health", None).await.0, 200);
    });
}

#[test]
fn the_command_line_explains_in_a_sentence_why_it_is_refused() {
    let secured = Secured::start();
    let stranger = Ca::new(secured.cluster.path(), "stranger");
    let address = secured.cluster.url.trim_start_matches("https://").to_string();
    let plain = format!("http://{address}");
    let other_name = format!("https://ip6-localhost:{}", address.split(':').nth(1).unwrap());
    let sql = secured.cluster.file("q.sql", "SELEC 1;");
    let stranger_file = stranger.file.to_str().unwrap();
    for (token, args, exit, expected) in [
        ("", vec!["ls"], 1, "HIGHWATER_TOKEN"),
        ("wrong", vec!["ls"], 1, "not among the driver's"),
        ("viewer", vec!["drop", "q"], 1, "token `viewer` has role viewer, and DropQuery needs admin"),
        ("viewer", vec!["submit", &sql], 1, "SubmitQuery needs operator"),
        ("operator", vec!["submit", &sql], 2, "SELEC"),
        ("operator", vec!["submit", &sql, "--replace"], 1, "SubmitQuery with replace needs admin"),
        ("admin", vec!["submit", &sql, "--replace"], 2, "SELEC"),
        ("executor", vec!["ls"], 1, "role executor"),
        ("viewer", vec!["ls", "--driver", &plain], 1, "this port speaks TLS: use https://"),
        ("viewer", vec!["ls", "--tls-ca", stranger_file], 1, "not signed by the CA"),
        ("viewer", vec!["ls", "--tls-ca", "/nowhere"], 2, "cannot read /nowhere"),
        ("two words", vec!["ls"], 2, "HIGHWATER_TOKEN"),
    ] {
        let (code, stderr) = secured.code(token, &args);
        assert_eq!(code, exit, "{token:?} {args:?}: {stderr}");
        assert!(stderr.contains(expected), "{token:?} {args:?}: {stderr}");
    }
    // Not every machine knows this name of its loopback interface.
    let (code, stderr) = secured.code("viewer", &["ls", "--driver", &other_name]);
    assert!(code == 3 || (code == 1 && stderr.contains("certificate for other names")), "{code} {stderr}");
    // A certificate that the driver's client CA has not signed ends the handshake.
    let shown = stranger.issue("shown", LOCAL);
    let mut args = vec!["ls"];
    args.extend(flags(&shown));
    let (code, stderr) = secured.code("viewer", &args);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("refuses the certificate that --tls-cert names"), "{stderr}");
    // The HTTP port answers a plain client in HTTP.
    block_on(async {
        let tcp = TcpStream::connect(&secured.cluster.http).await.unwrap();
        let (status, body) = get_over(tcp, "/health", None).await;
        assert!(status == 400 && body.contains("use https://"), "{body}");
    });
}

#[test]
fn executors_work_over_tls_and_take_batches_from_one_another_only() {
    let tables = Tables::new("secured", 1);
    tables.produce(0, 0..1000);
    let mut secured = Secured::start();
    // One shows a token, the others a certificate; those with a certificate serve their exchange over TLS.
    let (first, second) = (secured.ca.issue("first", LOCAL), secured.ca.issue("second", LOCAL));
    let ca = secured.cluster.environment.clone();
    let with = |token: Option<&str>| {
        let token = token.map(|token| ("HIGHWATER_TOKEN", token.to_string()));
        ca.iter().cloned().chain(token).collect::<Vec<_>>()
    };
    secured.cluster.add_executor_with(&with(None), &flags(&first));
    secured.cluster.add_executor_with(&with(None), &flags(&second));
    secured.cluster.add_executor_with(&with(Some("executor")), &["--slots", "1"]);
    secured.cluster.environment.push(("HIGHWATER_TOKEN", "admin".to_string()));
    let sql = format!(
        "{} {} INSERT INTO o SELECT id % 100, count(*) FROM t GROUP BY id % 100;",
        tables.source(""),
        tables.sink("id BIGINT, n BIGINT, PRIMARY KEY (id) NOT ENFORCED")
    );
    secured.cluster.submit("q", &sql);
    secured.cluster.wait_caught_up("q");
    let status = secured.cluster.wait("three executors with shards", || {
        let status = secured.cluster.status("q");
        let executors = status["executors"].as_array().unwrap();
        (executors.len() == 3 && executors.iter().all(|executor| executor["shards"] != 0)).then(|| status.clone())
    });
    tables.produce(0, 0..1000);
    secured.cluster.wait_caught_up("q");
    let mut newest = std::collections::BTreeMap::new();
    for row in tables.rows() {
        newest.insert(row["id"].as_i64().unwrap(), row["n"].as_i64().unwrap());
    }
    assert!(newest.len() == 100 && newest.values().all(|n| *n == 20), "{newest:?}\n{}", secured.cluster.logs());

    let addresses: Vec<String> =
        status["executors"].as_array().unwrap().iter().map(|e| e["address"].as_str().unwrap().to_string()).collect();
    block_on(async {
        let mut encrypted = 0;
        for address in &addresses {
            let client = secured.ca.client(Some(&first));
            let channel = match connect(&format!("https://{address}"), &client).await {
                Ok(channel) => {
                    encrypted += 1;
                    channel
                }
                Err(_) => connect(&format!("http://{address}"), &client).await.unwrap(),
            };
            for token in [None, Some("executor"), Some("admin")] {
                let found = admitted(&channel, "/highwater.v1.ExchangeService/PushBatches", token).await;
                assert_eq!(found, '?', "{address} with {token:?}");
            }
            assert_eq!(admitted(&channel, "/grpc.health.v1.Health/Check", None).await, 'y');
            let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
            assert_eq!(admitted(&channel, reflection, Some("admin")).await, 'n');
        }
        assert_eq!(encrypted, 2);
    });
}

#[test]
fn incompatible_versions_are_refused() {
    let cluster = Highwater::start(0);
    block_on(async {
        let channel = connect(&cluster.url, &highwater_security::ClientSecurity::default()).await.unwrap();
        let list = "/highwater.v1.QueryService/ListQueries";
        call(&channel, list, &[]).await.unwrap();
        let newer = [("highwater-protocol", "999"), ("highwater-version", "9.9.9")];
        let refused = call(&channel, list, &newer).await.unwrap_err();
        let register = call(&channel, "/highwater.v1.ClusterService/RegisterExecutor", &[]).await.unwrap_err();
        for (refused, parts) in [(refused, ["9.9.9", "protocol 999"]), (register, ["executor", "protocol 0"])] {
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
            for part in parts.into_iter().chain([env!("CARGO_PKG_VERSION"), "; "]) {
                assert!(refused.message().contains(part), "{refused}");
            }
        }
    });
}
