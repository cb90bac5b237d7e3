//! Certificates and tokens are read again while everything runs.

use super::pki::Ca;
use super::wire::{admitted, block_on, connect};
use super::{LOCAL, Secured, write_tokens};
use highwater_testkit::highwater::DEADLINE;
use std::time::Duration;

const LIST: &str = "/highwater.v1.QueryService/ListQueries";

#[test]
fn an_executor_is_refused_without_its_token_and_admitted_with_it_again() {
    let mut secured = Secured::start();
    let mut environment = secured.cluster.environment.clone();
    environment.push(("HIGHWATER_TOKEN", "executor".to_string()));
    let executor = secured.cluster.add_executor_with(&environment, &[]);
    secured.cluster.executor(executor).wait_stderr("joined the driver", DEADLINE);
    write_tokens(&secured.tokens, "-2");
    secured
        .cluster
        .executor(executor)
        .wait_stderr("the driver refuses this executor: the token is not among", DEADLINE);
    write_tokens(&secured.tokens, "");
    secured.cluster.wait("the executor to join again", || {
        let log = secured.cluster.logs();
        (log.matches("joined the driver").count() == 2).then_some(())
    });
}

#[test]
fn tokens_and_certificates_are_read_again_and_an_invalid_file_changes_nothing() {
    let secured = Secured::start();
    let log = |part: &str| secured.cluster.logs().matches(part).count();
    block_on(async {
        let channel = connect(&secured.cluster.url, &secured.ca.client(None)).await.unwrap();
        let until = async |token: &str, expected: char| {
            while admitted(&channel, LIST, Some(token)).await != expected {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        // The connection stays open; what its token may do changes.
        write_tokens(&secured.tokens, "-2");
        until("viewer-2", 'y').await;
        assert_eq!(admitted(&channel, LIST, Some("viewer")).await, '?');
        std::fs::write(&secured.tokens, "[[token]]\nname = ").unwrap();
        while log("are invalid; the previous contents stay in use") == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(admitted(&channel, LIST, Some("viewer-2")).await, 'y');
        write_tokens(&secured.tokens, "-3");
        until("viewer-3", 'y').await;

        // A certificate of another CA for new connections; the open connection keeps working.
        let other = Ca::new(secured.cluster.path(), "other");
        std::fs::write(secured.cluster.path().join("driver.key"), "no key").unwrap();
        let believes = secured.ca.client(None);
        connect(&secured.cluster.url, &believes).await.unwrap();
        other.issue("driver", LOCAL);
        while connect(&secured.cluster.url, &other.client(None)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(connect(&secured.cluster.url, &believes).await.is_err());
        assert_eq!(admitted(&channel, LIST, Some("viewer-3")).await, 'y');
    });
}
