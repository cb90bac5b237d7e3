//! Executors that cannot reach one another, queries that kill executors, and a wall clock that jumps.

use crate::table::Tables;
use highwater_testkit::ports::free_port;
use highwater_testkit::{Highwater, KafkaCluster, Message, Payments};
use std::io::copy;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A proxy in front of an executor, which can be closed to some processes.
struct Proxy {
    /// Where the executor listens.
    listen: String,
    /// The address that the executor advertises: that of this proxy.
    advertise: String,
    closed_to: Arc<Mutex<Vec<u32>>>,
}

impl Proxy {
    fn open() -> Self {
        let front = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self {
            listen: format!("127.0.0.1:{}", free_port()),
            advertise: front.local_addr().unwrap().to_string(),
            closed_to: Arc::default(),
        };
        let (to, closed_to) = (proxy.listen.clone(), proxy.closed_to.clone());
        std::thread::spawn(move || {
            for incoming in front.incoming().map_while(Result::ok) {
                let from = incoming.peer_addr().unwrap().port();
                let is_closed = closed_to.lock().unwrap().iter().any(|process| owns(*process, from));
                if let (false, Ok(onward)) = (is_closed, TcpStream::connect(&to)) {
                    pipe(incoming.try_clone().unwrap(), onward.try_clone().unwrap());
                    pipe(onward, incoming);
                }
            }
        });
        proxy
    }

    fn arguments(&self) -> [&str; 6] {
        ["--slots", "1", "--listen", &self.listen, "--advertise", &self.advertise]
    }
}

/// Copies one direction on its own thread.
fn pipe(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        // Either end may be closed at any time.
        let _ = copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
}

/// True if the process holds the local end of a connection from this port.
fn owns(process: u32, port: u16) -> bool {
    let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let suffix = format!(":{port:04X}");
    let mut inodes = connections.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1)?.ends_with(&suffix)).then(|| format!("socket:[{}]", fields[9]))
    });
    inodes.any(|inode| {
        let files = std::fs::read_dir(format!("/proc/{process}/fd"));
        let mut files = files.into_iter().flatten().flatten();
        files.any(|file| std::fs::read_link(file.path()).is_ok_and(|link| link.to_string_lossy() == inode))
    })
}

/// The executor keeps its connection and its other queries; only its worker of this query hangs.
#[test]
fn a_query_that_hangs_on_one_executor_is_computed_elsewhere_when_its_lease_ends() {
    let tables = Tables::new("hangs", 2);
    let mut cluster = Highwater::start(1);
    let delays = ("HIGHWATER_DELAYS", "executor_after_promote:3600000".to_string());
    let hung = cluster.add_executor_with(&[delays], &["--slots", "1"]);
    cluster.submit("q", &tables.copy("", ""));
    cluster.wait("both executors", || (cluster.status("q")["executors"].as_array()?.len() == 2).then_some(()));
    for partition in 0..2 {
        tables.produce(partition, i64::from(partition) * 100..i64::from(partition) * 100 + 100);
    }
    cluster.wait("the first batch", || (tables.ids().len() == 200).then_some(()));
    tables.produce(0, 200..300);
    tables.produce(1, 300..400);
    cluster.wait_caught_up("q");
    assert_eq!(tables.ids(), (0..400).collect::<Vec<_>>());
    assert!(cluster.executor(hung).is_running());
    let log = cluster.driver().stderr();
    assert!(log.contains("tasks make no progress on executor"), "{log}");
}

#[test]
fn a_cut_between_two_executors_leaves_one_of_them_out_and_the_query_continues() {
    let payments = Payments::new(KafkaCluster::shared(), "cut", 6);
    let mut cluster = Highwater::start(0);
    let proxies = [Proxy::open(), Proxy::open()];
    let cut: Vec<usize> = proxies.iter().map(|proxy| cluster.add_executor_with(&[], &proxy.arguments())).collect();
    for (proxy, other) in proxies.iter().zip(cut.iter().rev()) {
        proxy.closed_to.lock().unwrap().push(cluster.executor(*other).id());
    }
    cluster.add_executor(&[]);
    cluster.submit("totals", &payments.sql(""));
    cluster.wait("three executors", || (cluster.status("totals")["executors"].as_array()?.len() == 3).then_some(()));
    payments.produce(0..6_000, 6);
    cluster.wait_caught_up("totals");
    payments.assert_exact(6_000);
    let status = cluster.status("totals");
    let warnings = status["warnings"].to_string();
    assert!(
        warnings.contains("cannot reach one another")
            && proxies.iter().any(|proxy| warnings.contains(&proxy.advertise)),
        "{status}"
    );

    cluster.executor(2).terminate();
    cluster.driver().wait_stderr("executor leaves", Duration::from_secs(60));
    payments.produce(6_000..7_000, 6);
    cluster.wait_caught_up("totals");
    payments.assert_exact(7_000);
}

#[test]
fn a_query_that_kills_executors_is_quarantined_and_the_others_continue() {
    let payments = Payments::new(KafkaCluster::shared(), "beside-poison", 2);
    payments.produce(0..2_000, 2);
    let poison = Tables::new("poison", 1);
    poison.produce(0, 0..10);
    poison.kafka.produce(&poison.input, [Message::new("not json")]);
    let mut cluster = Highwater::start(0);
    // Every executor dies of a bad record, and is replaced by a new one that dies, too.
    let deadly = [("HIGHWATER_CRASH_POINT", "executor_dead_letters".to_string())];
    let mut alive: Vec<usize> = (0..2).map(|_| cluster.add_executor(&deadly)).collect();
    cluster.submit("totals", &payments.sql(""));
    cluster.wait_caught_up("totals");
    cluster.submit("poison", &poison.copy("", ", 'on_bad_record'='dead_letter'"));
    let mut deaths = 0;
    let began = Instant::now();
    let status = loop {
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "not quarantined after {deaths} deaths\n{}",
            cluster.logs()
        );
        for number in &mut alive {
            if !cluster.executor(*number).is_running() {
                deaths += 1;
                *number = cluster.add_executor(&deadly);
            }
        }
        let status = cluster.status("poison");
        if status["message"].as_str().is_some_and(|message| message.contains("quarantined")) {
            break status;
        }
    };
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("executors died one after another"), "{message}");
    assert!((2..=5).contains(&deaths), "after {deaths} deaths: {message}");
    payments.produce(2_000..4_000, 2);
    cluster.wait_caught_up("totals");
    payments.assert_exact(4_000);
    assert_eq!(cluster.status("totals")["state"], "running");
    cluster.ok(&["stop", "poison"]);
}

#[test]
fn a_query_keeps_its_pace_while_the_wall_clock_jumps_an_hour_back_and_forth() {
    const HOUR_MS: i64 = 3_600_000;
    let tables = Tables::new("clock-jumps", 1);
    let mut cluster = Highwater::stopped();
    let skew = cluster.path().join("skew");
    cluster.start_driver(&[("HIGHWATER_WALL_SKEW", skew.to_str().unwrap().to_string())]);
    cluster.add_executor(&[]);
    cluster.submit("q", &tables.copy("SET trigger = 'every 1 second';", ", 'max_records_per_second'='1000'"));
    let mut ids = 0;
    for hours in [0, -1, 1, 0] {
        std::fs::write(&skew, (hours * HOUR_MS).to_string()).unwrap();
        tables.produce(0, ids..ids + 100);
        ids += 100;
        cluster.wait_caught_up("q");
    }
    assert_eq!(tables.ids(), (0..ids).collect::<Vec<_>>());
    let parse = |text: &serde_json::Value| text.as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    let times: Vec<_> = cluster.progress("q").iter().map(|batch| parse(&batch["timestamp"])).collect();
    assert!(times.is_sorted(), "{times:?}");
    let ahead = *times.last().unwrap() - chrono::Utc::now();
    assert!(ahead < chrono::TimeDelta::minutes(5), "the time of batches is {ahead} ahead");
}
