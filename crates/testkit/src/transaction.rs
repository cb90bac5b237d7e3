//! Transactions of tests, which are committed, aborted or left open.

use crate::client::{AllDelivered, send_all};
use crate::cluster::{DEADLINE, KafkaCluster};
use crate::record::Message;
use rdkafka::producer::{BaseProducer, Producer};

/// An open transaction. If dropped, it stays open until its timeout or until it is fenced.
pub struct Transaction {
    producer: BaseProducer<AllDelivered>,
}

impl KafkaCluster {
    /// Begins a transaction, and fences an earlier owner of the same id.
    #[track_caller]
    pub fn begin(&self, transactional_id: &str) -> Transaction {
        let producer = self.producer(&[("transactional.id", transactional_id)]);
        producer.init_transactions(DEADLINE).expect("transactions can be initialised");
        producer.begin_transaction().expect("a transaction can begin");
        Transaction { producer }
    }

    /// Writes records in one committed transaction.
    #[track_caller]
    pub fn produce_transaction(
        &self,
        transactional_id: &str,
        topic: &str,
        messages: impl IntoIterator<Item = Message>,
    ) {
        let transaction = self.begin(transactional_id);
        transaction.write(topic, messages);
        transaction.commit();
    }

    /// Writes records in one aborted transaction.
    #[track_caller]
    pub fn produce_aborted(&self, transactional_id: &str, topic: &str, messages: impl IntoIterator<Item = Message>) {
        let transaction = self.begin(transactional_id);
        transaction.write(topic, messages);
        transaction.abort();
    }
}

impl Transaction {
    /// Writes records and waits until the broker holds them, uncommitted.
    #[track_caller]
    pub fn write(&self, topic: &str, messages: impl IntoIterator<Item = Message>) {
        send_all(&self.producer, topic, messages);
        self.producer.flush(DEADLINE).expect("the records are delivered");
    }

    #[track_caller]
    pub fn commit(self) {
        self.producer.commit_transaction(DEADLINE).expect("the transaction commits");
    }

    #[track_caller]
    pub fn abort(self) {
        self.producer.abort_transaction(DEADLINE).expect("the transaction aborts");
    }
}
