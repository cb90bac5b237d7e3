//! Shows the demo: a live page on a terminal, lines or JSON elsewhere.
//!
//! Owns: the layout. Does not own: the data (`watch`, `results`).

use super::results::Latest;
use super::watch::Picture;
use crate::failure::Failure;
use crate::json::state_name;
use crate::{json, output, table};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Number of lines of the live page.
const PAGE_LINES: usize = 30;
/// Number of events shown on the live page.
const EVENTS: usize = 5;
/// How often lines are printed if there is no terminal.
const PRINT_EVERY: Duration = Duration::from_secs(2);

/// Everything shown at one moment.
pub struct Frame<'a> {
    pub elapsed: Duration,
    pub sent: u64,
    pub pictures: &'a [Picture],
    pub latest: &'a Latest,
}

/// Where the demo is shown.
pub struct View {
    kind: Kind,
    events: VecDeque<String>,
    printed: Option<Instant>,
}

enum Kind {
    Page { _all: MultiProgress, lines: Vec<ProgressBar> },
    Lines,
    Json,
}

impl View {
    pub fn new(json: bool, plain: bool) -> Self {
        let kind = if json {
            Kind::Json
        } else if plain || !std::io::stdout().is_terminal() {
            Kind::Lines
        } else {
            page()
        };
        Self { kind, events: VecDeque::new(), printed: None }
    }

    /// Shows an event to the user.
    pub fn event(&mut self, elapsed: Duration, text: &str) -> Result<(), Failure> {
        let line = format!("[{:>4} s] {text}", elapsed.as_secs());
        match self.kind {
            Kind::Page { .. } => {
                if self.events.len() == EVENTS {
                    self.events.pop_front();
                }
                self.events.push_back(line);
                Ok(())
            }
            Kind::Lines => output::line(&line),
            Kind::Json => output::json(&json!({"seconds": elapsed.as_secs(), "event": text})),
        }
    }

    pub fn show(&mut self, frame: &Frame<'_>) -> Result<(), Failure> {
        if let Kind::Page { lines, .. } = &self.kind {
            let text = page_text(frame, &self.events);
            for (index, line) in lines.iter().enumerate() {
                line.set_message(text.get(index).cloned().unwrap_or_default());
            }
            return Ok(());
        }
        if self.printed.is_some_and(|at| at.elapsed() < PRINT_EVERY) {
            return Ok(());
        }
        self.printed = Some(Instant::now());
        match self.kind {
            Kind::Json => output::json(&frame_json(frame)),
            _ => frame_lines(frame).iter().try_for_each(|line| output::line(line)),
        }
    }

    /// Leaves the last page on the screen.
    pub fn finish(&self) {
        if let Kind::Page { lines, .. } = &self.kind {
            lines.iter().for_each(ProgressBar::abandon);
        }
    }
}

fn page() -> Kind {
    let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout_with_hz(5));
    let style = ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    let lines = (0..PAGE_LINES).map(|_| all.add(ProgressBar::new_spinner().with_style(style.clone()))).collect();
    Kind::Page { _all: all, lines }
}

fn page_text(frame: &Frame<'_>, events: &VecDeque<String>) -> Vec<String> {
    let mut lines = vec![
        format!("Highwater demo · {} s · {} card payments generated · ^C ends", frame.elapsed.as_secs(), frame.sent),
        "its broker is a stand-in that keeps no transactions; `make kafka` runs a real one".to_string(),
    ];
    for picture in frame.pictures {
        lines.push(String::new());
        lines.push(headline(picture));
        lines.push(format!("  lag {}", lag(picture)));
        lines.extend(picture.status.executors.iter().map(|executor| format!("  {}", share(executor))));
    }
    lines.push(String::new());
    lines.extend(result_lines(frame.latest));
    lines.push(String::new());
    lines.extend(events.iter().cloned());
    lines
}

fn frame_lines(frame: &Frame<'_>) -> Vec<String> {
    let mut lines = vec![format!("[{:>4} s] {} card payments generated", frame.elapsed.as_secs(), frame.sent)];
    for picture in frame.pictures {
        lines.push(format!("         {} · lag {}", headline(picture), lag(picture)));
        lines.extend(picture.status.executors.iter().map(|executor| format!("           {}", share(executor))));
    }
    lines.extend(result_lines(frame.latest).into_iter().map(|line| format!("         {line}")));
    lines
}

/// One query in one line.
fn headline(picture: &Picture) -> String {
    let batch = picture.batch.or(picture.status.batch_id).map_or_else(|| "-".to_string(), |batch| batch.to_string());
    let mut line = format!(
        "{} {} · batch {batch} · {:.0} records/s · {} ms",
        picture.name,
        state_name(picture.status.state()),
        picture.rate(),
        picture.took_ms
    );
    if !picture.status.message.is_empty() {
        line.push_str(&format!(" · {}", picture.status.message));
    }
    line
}

/// Lag in all and per partition: `12 (0:3 1:9)`.
fn lag(picture: &Picture) -> String {
    let Some(lag) = &picture.lag else { return "?".to_string() };
    let known = |lag: Option<i64>| lag.map_or_else(|| "?".to_string(), |lag| lag.to_string());
    let parts: Vec<_> =
        lag.partitions.iter().map(|partition| format!("{}:{}", partition.partition, known(partition.lag))).collect();
    format!("{} (by partition {})", known(lag.total_lag), parts.join(" "))
}

/// What one executor does for a query.
fn share(executor: &highwater_proto::v1::ExecutorStatus) -> String {
    format!(
        "executor {} reads {}, keeps {} shards, {} records so far",
        table::short(&executor.id),
        table::share(executor),
        executor.shards,
        executor.input_rows
    )
}

fn result_lines(latest: &Latest) -> Vec<String> {
    let mut lines = Vec::new();
    if !latest.window.is_empty() {
        let totals: Vec<_> =
            latest.totals.iter().map(|(name, (payments, total))| format!("{name} {payments} = {total}")).collect();
        lines.push(format!("window {}: {}", latest.window, totals.join(" · ")));
    }
    lines.push(format!("{} alerts so far", latest.alert_count));
    lines.extend(latest.alerts.iter().map(|alert| format!("  {alert}")));
    lines
}

fn frame_json(frame: &Frame<'_>) -> Value {
    let query = |picture: &Picture| {
        json!({
            "status": json::status(&picture.status),
            "recordsPerSecond": picture.rate(),
            "lag": picture.lag.as_ref().map(json::lag),
        })
    };
    json!({
        "seconds": frame.elapsed.as_secs(),
        "generated": frame.sent,
        "queries": frame.pictures.iter().map(query).collect::<Vec<_>>(),
        "window": (!frame.latest.window.is_empty()).then_some(&frame.latest.window),
        "alerts": frame.latest.alert_count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_proto::v1::{ExecutorStatus, GetLagResponse, PartitionLag, PartitionList};

    fn picture() -> Picture {
        let executor = ExecutorStatus {
            id: "0192aaaa-bbbb".into(),
            partitions: [("card_payments".to_string(), PartitionList { partitions: vec![0, 1] })].into(),
            shards: 21,
            ..ExecutorStatus::default()
        };
        let of = |partition, lag| PartitionLag { topic: "card_payments".into(), partition, lag, ..Default::default() };
        let mut picture = Picture { name: "card_totals".into(), batch: Some(4), ..Picture::default() };
        picture.status.executors.push(executor);
        picture.lag = Some(GetLagResponse {
            name: String::new(),
            total_lag: None,
            partitions: vec![of(0, Some(3)), of(1, None)],
        });
        picture
    }

    #[test]
    fn the_page_shows_each_executors_share_and_fits() {
        let pictures = [picture(), picture()];
        let latest = Latest { window: "2026-01-01T00:00:00".into(), ..Latest::default() };
        let frame = Frame { elapsed: Duration::from_secs(3), sent: 10, pictures: &pictures, latest: &latest };
        let page = page_text(&frame, &VecDeque::new());
        let text = page.join("\n");
        assert!(page.len() <= PAGE_LINES);
        for part in ["batch 4", "card_payments 0-1", "21 shards", "? (by partition 0:3 1:?)", "make kafka"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
