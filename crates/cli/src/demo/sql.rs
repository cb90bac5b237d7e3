//! The demo's two queries: the examples of the repository, on the demo's own broker.

/// Windowed totals per category.
pub const TOTALS: &str = "card_totals";
/// Suspicious payments, routed to a topic by their reason.
pub const ALERTS: &str = "card_alerts";

pub const PAYMENTS_TOPIC: &str = "card_payments";
pub const TOTALS_TOPIC: &str = "card_totals";
pub const ALERT_TOPICS: [&str; 2] = ["alerts_large", "alerts_abroad"];

const TOTALS_SQL: &str = include_str!("../../../../examples/card_totals.sql");
const ALERTS_SQL: &str = include_str!("../../../../examples/card_alerts.sql");

/// Name and script of each query.
pub fn queries(bootstrap_servers: &str) -> [(&'static str, String); 2] {
    // The embedded broker delays an answer without records for the whole fetch wait, so that is kept short. It creates
    // topics only for clients that ask for their metadata.
    let here = format!(
        "'{bootstrap_servers}',\n  'kafka.fetch.wait.max.ms' = '100',\n  'kafka.allow.auto.create.topics' = 'true'"
    );
    let place = |sql: &str| sql.replace("'localhost:9092'", &here);
    [(TOTALS, place(TOTALS_SQL)), (ALERTS, place(ALERTS_SQL))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_examples_compile_on_the_demos_broker() {
        for (name, sql) in queries("127.0.0.1:4711") {
            assert!(sql.contains("'127.0.0.1:4711'") && !sql.contains("localhost"), "{name}");
            if let Err(error) = highwater_planner::compile(&sql) {
                panic!("{name}: {error}");
            }
        }
    }
}
