//! Names of columns and of fields of records: matched in any case, written as declared; fields that never come are told.

use crate::table::Tables;
use highwater_testkit::{Highwater, Message};
use serde_json::json;

#[test]
fn fields_are_found_in_any_case_and_a_field_that_is_absent_is_told_until_it_comes() {
    let tables = Tables::new("names", 1);
    let servers = tables.kafka.bootstrap_servers();
    let records = [
        json!({"userId": 21, "payload": {"kind": "view", "at": [3, 4]}}),
        json!({"USERID": 22, "payload": 6.50}),
        json!({"userid": 23, "payload": null}),
    ];
    tables.kafka.produce(&tables.input, records.iter().map(Message::json));
    let cluster = Highwater::start(1);
    let sql = format!(
        "CREATE TABLE Visits (userId BIGINT, payload STRING, pageUrl STRING, neverRead STRING)
         WITH ('connector'='kafka', 'topic'='{}', 'bootstrap.servers'='{servers}', 'format'='json');
         {}
         INSERT INTO O (PAYLOAD, USERID, Kind, PageUrl)
         SELECT payload, USERID, json_value(PAYLOAD, '$.kind'), pageURL FROM visits WHERE UserId > 0;",
        tables.input,
        tables.sink("userId BIGINT, `Kind` STRING, payload STRING, pageUrl STRING"),
    );
    cluster.submit("q", &sql);
    cluster.wait_caught_up("q");
    let expected = [
        json!({"userId": 21, "Kind": "view", "payload": "{\"kind\":\"view\",\"at\":[3,4]}", "pageUrl": null}),
        json!({"userId": 22, "Kind": null, "payload": "6.5", "pageUrl": null}),
        json!({"userId": 23, "Kind": null, "payload": null, "pageUrl": null}),
    ];
    assert_eq!(tables.rows(), expected);

    let warnings = || cluster.status("q")["warnings"].to_string();
    let absent = "table 'Visits': field 'pageUrl' has been absent in all 3 records so far";
    cluster.wait("the warning", || warnings().contains(absent).then_some(()));
    assert!(!warnings().contains("neverRead") && !warnings().contains("payload"), "{}", warnings());
    tables.kafka.produce(&tables.input, [Message::json(&json!({"userId": 24, "pageurl": "/"}))]);
    cluster.wait("the warning to go", || (!warnings().contains("pageUrl")).then_some(()));
    cluster.wait("the row", || (tables.rows().len() == 4).then_some(()));
    assert_eq!(tables.rows()[3]["pageUrl"], "/");
}
