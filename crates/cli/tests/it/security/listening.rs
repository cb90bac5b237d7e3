//! Where a process may listen, depending on what protects it.

use super::pki::{Ca, flags};
use super::write_tokens;
use highwater_testkit::highwater::binary;
use highwater_testkit::{Highwater, Process};
use std::path::Path;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(60);

/// Runs a process that must end by itself. Returns its exit code and stderr.
fn ends(folder: &Path, args: &[&str], environment: &[(&str, &str)]) -> (i32, String) {
    let mut process = Process::spawn(binary(), args, environment, folder, &args.join("_").replace('/', "-"));
    let status = process.wait(DEADLINE);
    (status.code().unwrap_or(-1), process.stderr())
}

#[test]
fn without_protection_only_loopback_addresses_are_allowed() {
    let mut cluster = Highwater::stopped();
    let folder = cluster.path().to_path_buf();
    let ca = Ca::new(&folder, "ca");
    let files = ca.issue("driver", &["127.0.0.1"]);
    let data = folder.join("refused").display().to_string();
    let driver = |listen: &'static str, http: &'static str, more: &[&'static str]| {
        let mut args = vec!["driver", "--listen", listen, "--http", http, "--data-dir", &data];
        args.extend(more);
        args.into_iter().map(str::to_string).collect::<Vec<_>>()
    };
    let mut encrypted = driver("0.0.0.0:0", "127.0.0.1:0", &[]);
    encrypted.extend(flags(&files).map(str::to_string));
    let executor = |more: &[&str]| {
        let args = ["executor", "--driver", "http://127.0.0.1:1", "--listen", "0.0.0.0:0"].iter().chain(more);
        args.map(ToString::to_string).collect::<Vec<_>>()
    };
    for (args, expected) in [
        (driver("0.0.0.0:0", "127.0.0.1:0", &[]), "--listen 0.0.0.0:0 can be reached from other machines"),
        (driver("127.0.0.1:0", "0.0.0.0:0", &[]), "--http 0.0.0.0:0 can be reached from other machines"),
        (driver("[::]:0", "127.0.0.1:0", &[]), "set --tokens F.toml"),
        (encrypted, "callers need neither a token nor a certificate"),
        (driver("127.0.0.1:0", "127.0.0.1:0", &["--tls-client-ca", "ca.pem"]), "--tls-client-ca needs --tls-cert"),
        (driver("127.0.0.1:0", "127.0.0.1:0", &["--tokens", "/nowhere"]), "cannot read /nowhere"),
        (executor(&[]), "set HIGHWATER_TOKEN"),
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (code, stderr) = ends(&folder, &args, &[]);
        assert_eq!(code, 2, "{args:?}: {stderr}");
        assert!(stderr.contains(expected), "{args:?}: {stderr}");
    }
    assert!(!folder.join("refused").exists(), "a refused driver creates nothing");

    // Credentials do not help if the driver admits anyone.
    cluster.start_driver(&[]);
    cluster.ok(&["ls"]);
    let args = ["executor", "--driver", &cluster.url, "--listen", "0.0.0.0:0"];
    let (code, stderr) = ends(&folder, &args, &[("HIGHWATER_TOKEN", "t")]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("tells the secret of the exchange to anybody"), "{stderr}");
    // TLS to a plain port.
    let url = cluster.url.replace("http://", "https://");
    let output = cluster.command(&["ls", "--driver", &url, "--tls-ca", ca.file.to_str().unwrap()]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("does not speak TLS"), "{stderr}");
}

#[test]
fn a_client_ca_alone_gives_every_right_to_its_certificates() {
    let mut cluster = Highwater::stopped();
    let ca = Ca::new(cluster.path(), "ca");
    let (driver, client) = (ca.issue("driver", &["127.0.0.1"]), ca.issue("client", &[]));
    let mut args = flags(&driver).to_vec();
    args.extend(["--tls-client-ca", ca.file.to_str().unwrap()]);
    cluster.start_driver_with(&[], &args);
    cluster.url = cluster.url.replace("http://", "https://");
    cluster.environment = vec![("HIGHWATER_TLS_CA", ca.file.to_str().unwrap().to_string())];
    let mut drop = vec!["drop", "nosuch"];
    let refused = cluster.run(&drop);
    assert_eq!(refused.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(stderr.contains("requires a client certificate"), "{stderr}");
    drop.extend(flags(&client));
    let stderr = String::from_utf8_lossy(&cluster.run(&drop).stderr).into_owned();
    assert!(stderr.contains("no query named"), "{stderr}");
}

#[test]
fn with_tokens_any_address_is_allowed() {
    let mut cluster = Highwater::stopped();
    let tokens = cluster.path().join("tokens.toml");
    write_tokens(&tokens, "");
    let args = ["driver", "--listen", "0.0.0.0:0", "--http", "0.0.0.0:0", "--tokens", tokens.to_str().unwrap()];
    let mut process = Process::spawn(binary(), args, &[("RUST_LOG", "info")], cluster.path(), "reachable");
    process.wait_stderr("driver ready", DEADLINE);
    assert!(process.stderr().contains("would travel there in the clear"), "{}", process.stderr());
    drop(process);

    // An executor with a token may listen anywhere, too, and joins.
    cluster.start_driver_with(&[], &["--tokens", tokens.to_str().unwrap()]);
    let token = |role: &str| [("HIGHWATER_TOKEN", role.to_string())];
    let executor = cluster.add_executor_with(&token("executor"), &["--listen", "0.0.0.0:0"]);
    cluster.executor(executor).wait_stderr("joined the driver", DEADLINE);
}
