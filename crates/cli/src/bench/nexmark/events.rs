//! The events, as the published generator creates them, as JSON records.
//!
//! Owns: the generator's settings, the format of the records, which partition each goes to. Does not own: writing them
//! (`topics`). Invariants: the same settings always produce the same records; every partition is in order of time, and
//! the partitions of a stream advance together, so that no record is late however batches are cut.

use ::nexmark::EventGenerator;
use ::nexmark::config::NexmarkConfig;
use ::nexmark::event::{Auction, Bid, Event, Person};
use chrono::DateTime;
use serde::Serialize;

/// Time of the first event: 2025-12-31T23:50:00Z, so that a run crosses midnight.
const BASE_TIME_MS: u64 = 1_767_225_000_000;
/// Keys of the side input.
const SIDE_INPUT_ROWS: u64 = 10_000;
/// In capitals, as the published generator writes them and the queries expect them; the crate has them in lower case.
const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];

/// The three streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    Person,
    Auction,
    Bid,
}

impl Stream {
    pub const ALL: [Self; 3] = [Self::Person, Self::Auction, Self::Bid];

    pub fn name(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Auction => "auction",
            Self::Bid => "bid",
        }
    }
}

/// Number of events, their density in event time, and the number of partitions.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub events: u64,
    pub events_per_second: u64,
    pub partitions: u32,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub stream: Stream,
    pub partition: u32,
    /// JSON.
    pub value: Vec<u8>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PersonRecord<'a> {
    id: usize,
    name: &'a str,
    email_address: &'a str,
    credit_card: &'a str,
    city: &'a str,
    state: &'a str,
    date_time: String,
    extra: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AuctionRecord<'a> {
    id: usize,
    item_name: &'a str,
    description: &'a str,
    initial_bid: usize,
    reserve: usize,
    date_time: String,
    expires: String,
    seller: usize,
    category: usize,
    extra: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BidRecord<'a> {
    auction: usize,
    bidder: usize,
    price: usize,
    channel: &'a str,
    url: &'a str,
    date_time: String,
    extra: &'a str,
}

/// All records, in order of their times.
pub fn records(settings: Settings) -> impl Iterator<Item = serde_json::Result<Record>> {
    let rate = usize::try_from(settings.events_per_second).unwrap_or(usize::MAX);
    let config = NexmarkConfig {
        base_time: BASE_TIME_MS,
        first_rate: rate,
        next_rate: rate,
        us_states: STATES.map(String::from).to_vec(),
        ..NexmarkConfig::default()
    };
    let mut seen = [0_u64; Stream::ALL.len()];
    let events = (0..settings.events).zip(EventGenerator::new(config));
    events.map(move |(_, event)| {
        let (stream, value) = encode(&event)?;
        let number = &mut seen[stream as usize];
        let partition = (*number % u64::from(settings.partitions)) as u32;
        *number += 1;
        Ok(Record { stream, partition, value })
    })
}

fn encode(event: &Event) -> serde_json::Result<(Stream, Vec<u8>)> {
    Ok(match event {
        Event::Person(person) => (Stream::Person, encode_person(person)?),
        Event::Auction(auction) => (Stream::Auction, encode_auction(auction)?),
        Event::Bid(bid) => (Stream::Bid, encode_bid(bid)?),
    })
}

fn encode_person(person: &Person) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&PersonRecord {
        id: person.id,
        name: &person.name,
        email_address: &person.email_address,
        credit_card: &person.credit_card,
        city: &person.city,
        state: &person.state,
        date_time: time(person.date_time),
        extra: &person.extra,
    })
}

fn encode_auction(auction: &Auction) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&AuctionRecord {
        id: auction.id,
        item_name: &auction.item_name,
        description: &auction.description,
        initial_bid: auction.initial_bid,
        reserve: auction.reserve,
        date_time: time(auction.date_time),
        expires: time(auction.expires),
        seller: auction.seller,
        category: auction.category,
        extra: &auction.extra,
    })
}

fn encode_bid(bid: &Bid) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&BidRecord {
        auction: bid.auction,
        bidder: bid.bidder,
        price: bid.price,
        channel: &bid.channel,
        url: &bid.url,
        date_time: time(bid.date_time),
        extra: &bid.extra,
    })
}

/// Formats a time as SQL does, and as other engines' JSON topics of this benchmark have it.
fn time(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(DateTime::from_timestamp_millis).unwrap_or_default();
    time.format("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

/// The side input of q13 as CSV: one value for every key.
pub fn side_input() -> String {
    (0..SIDE_INPUT_ROWS).map(|key| format!("{key},value-{key}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeMap;

    const SETTINGS: Settings = Settings { events: 5_000, events_per_second: 100, partitions: 4 };

    fn all(settings: Settings) -> Vec<Record> {
        records(settings).map(Result::unwrap).collect()
    }

    #[test]
    fn the_same_settings_produce_the_same_records() {
        let all = all(SETTINGS);
        assert_eq!(all, records(SETTINGS).map(Result::unwrap).collect::<Vec<_>>());
        let count = |stream| all.iter().filter(|record| record.stream == stream).count();
        assert_eq!(Stream::ALL.map(count), [100, 300, 4_600]);
        let first = String::from_utf8(all[0].value.clone()).unwrap();
        assert!(first.starts_with(r#"{"id":1000,"name":"vicky noris","emailAddress":"yplkvgz@qbxfg.com","#), "{first}");
        assert!(first.contains(r#""state":"AZ","dateTime":"2025-12-31 23:50:00.000","#), "{first}");
    }

    #[test]
    fn partitions_are_in_the_order_of_time_and_even() {
        let mut last: BTreeMap<(Stream, u32), (String, usize)> = BTreeMap::new();
        for record in all(SETTINGS) {
            let value: Value = serde_json::from_slice(&record.value).unwrap();
            let time = value["dateTime"].as_str().unwrap().to_string();
            let (known, count) = last.entry((record.stream, record.partition)).or_default();
            assert!(*known <= time);
            (*known, *count) = (time, *count + 1);
        }
        assert_eq!(last.len(), 12);
        assert!(last.iter().all(|((stream, _), (_, count))| match stream {
            Stream::Person => *count == 25,
            Stream::Auction => *count == 75,
            Stream::Bid => *count == 1_150,
        }));
    }
}
