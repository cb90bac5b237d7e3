//! `run`: runs one script with driver and executor in this process.
//!
//! Owns: starting both on free loopback ports, submitting or resuming, stopping after the batch in flight.
//! Invariant: a checkpoint in the folder is resumed only with the same script that created it.

use crate::cli::RunArgs;
use crate::client::{self, CHANGE, Client, LOOK, request};
use crate::commands::serve;
use crate::config::{DriverSettings, ExecutorSettings, cores};
use crate::context::Context;
use crate::failure::Failure;
use crate::{follow, json, output, script};
use highwater_checkpoint::CheckpointStore;
use highwater_connector_api::access::AccessPolicy;
use highwater_driver::Driver;
use highwater_proto::v1::{QueryState, StartQueryRequest, StopQueryRequest, SubmitQueryRequest};
use highwater_protocol::options::{DesiredState, QuerySpec};
use highwater_security::{ClientSecurity, DriverSecurity};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

pub async fn run(args: RunArgs, context: &Context) -> Result<(), Failure> {
    serve::keep_files_private();
    let name = script::name(args.name, &args.file)?;
    let sql = script::read(&args.file)?;
    // Invalid SQL ends here, before anything is stored.
    let compiled = highwater_planner::compile(&sql).map_err(|error| Failure::invalid(error.to_string()))?;
    if !context.global.json {
        output::warnings(&compiled.warnings);
    }
    let data_dir = context.config.data_dir(args.data_dir);
    let stored = stored_query(&data_dir, &name)?;
    if let Some(spec) = &stored {
        check_same_script(spec, &sql, &data_dir)?;
    }
    let interrupted = serve::until_signalled(false)?;
    let servers = CancellationToken::new();
    let local = Local::start(data_dir, servers.clone()).await?;
    let result = run_query(&local, &name, sql, stored, interrupted, context).await;
    servers.cancel();
    local.join().await?;
    result
}

/// Submits or resumes the query, and stays until it ends or the user stops it.
async fn run_query(
    local: &Local,
    name: &str,
    sql: String,
    stored: Option<QuerySpec>,
    interrupted: CancellationToken,
    context: &Context,
) -> Result<(), Failure> {
    match stored {
        None => submit(&local.client, name, sql).await?,
        // The driver has resumed it already.
        Some(spec) if spec.desired == DesiredState::Running => {}
        Some(_) => start(&local.client, name).await?,
    }
    let ended = tokio::select! {
        ended = follow::wait_quietly(&local.client, name) => ended?,
        () = interrupted.cancelled() => {
            output::note(&format!("stopping {name} after the batch in flight; press ^C again to end at once"));
            stop(&local.client, name).await?;
            return Err(Failure::Interrupted(format!("stopped {name}; run it again to resume from its checkpoint")));
        }
    };
    if context.global.json {
        output::json(&json::status(&ended))?;
    }
    if ended.state() == QueryState::Finished {
        output::note(&format!("{name} finished"));
    }
    follow::outcome(&ended)
}

/// Driver and executor of this process.
struct Local {
    client: client::Driver,
    driver: Driver,
    executor: tokio::task::JoinHandle<Result<(), Failure>>,
}

impl Local {
    async fn start(data_dir: PathBuf, stop: CancellationToken) -> Result<Self, Failure> {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let settings = DriverSettings {
            listen: any_port,
            http: any_port,
            data_dir,
            lease_ms: 10_000,
            access: AccessPolicy::ALL,
            security: DriverSecurity::default(),
        };
        let driver = Driver::start(serve::driver_options(&settings), stop.clone())
            .await
            .map_err(|error| Failure::failed(error.to_string()))?;
        let url = format!("http://{}", driver.address);
        let options = serve::executor_options(ExecutorSettings {
            driver_url: url.clone(),
            slots: cores(),
            listen: any_port,
            advertise: None,
            query_memory: None,
            data_dir: None,
            access: AccessPolicy::ALL,
            security: ClientSecurity::default(),
        });
        let executor = tokio::spawn(async move {
            highwater_executor::run(options, stop).await.map_err(|error| Failure::failed(error.to_string()))
        });
        Ok(Self { client: client::Driver::local(&url)?, driver, executor })
    }

    async fn join(self) -> Result<(), Failure> {
        let gone = |error: &dyn std::fmt::Display| Failure::failed(format!("a server of this process ended: {error}"));
        self.executor.await.map_err(|error| gone(&error))??;
        self.driver.join().await.map_err(|error| gone(&error))
    }
}

/// The stored query of this name; `None` if there is none.
fn stored_query(data_dir: &Path, name: &str) -> Result<Option<QuerySpec>, Failure> {
    if !data_dir.exists() {
        return Ok(None);
    }
    let store = CheckpointStore::open(data_dir)?;
    let specs = store.queries()?;
    for other in specs.iter().filter(|spec| spec.name != name && spec.desired == DesiredState::Running) {
        output::note(&format!(
            "{} also has the unfinished query {}, which is resumed, too",
            data_dir.display(),
            other.name
        ));
    }
    Ok(specs.into_iter().find(|spec| spec.name == name))
}

fn check_same_script(spec: &QuerySpec, sql: &str, data_dir: &Path) -> Result<(), Failure> {
    if spec.sql == sql {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{} has a checkpoint of query {} made by a different script, whose state may not fit this one. Run the \
         original script, or run this one with another --name or --data-dir",
        data_dir.display(),
        spec.name
    )))
}

async fn submit(driver: &client::Driver, name: &str, sql: String) -> Result<(), Failure> {
    let message = SubmitQueryRequest { name: name.to_string(), sql, replace: false, new_output: false };
    let wanted = &message;
    let call = |mut client: Client| async move { client.submit_query(request(wanted.clone(), LOOK * 6)).await };
    driver.call(call).await.map(|_| ())
}

async fn start(driver: &client::Driver, name: &str) -> Result<(), Failure> {
    let call = |mut client: Client| async move {
        client.start_query(request(StartQueryRequest { name: name.to_string() }, LOOK * 4)).await
    };
    driver.call(call).await.map(|_| ())
}

async fn stop(driver: &client::Driver, name: &str) -> Result<(), Failure> {
    let call = |mut client: Client| async move {
        client.stop_query(request(StopQueryRequest { name: name.to_string() }, CHANGE)).await
    };
    driver.call(call).await.map(|_| ())
}
