//! How an intent lies in its journal.
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use steno_commit::Item;
use steno_event::{Filled, Halves, IdKey, identity};

/// What an application is about to write. Leaves the pod in no form.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Private {
    /// What will be done, such as `insert`.
    pub operation: String,
    /// Type of what will be written, such as `Payment`.
    pub dto_type: String,
    /// Its id.
    pub entity_id: String,
    /// The payload, byte for byte as it came.
    pub payload: Box<RawValue>,
    /// The application's own label of the write.
    pub replay_key: ReplayKey,
}

/// The application's own label of a write, by which it finds out whether it was done. Several intents may share one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplayKey {
    /// Environment, such as `prod`.
    pub env: String,
    /// Short name of the application or the tenant.
    pub slug: String,
    /// Version of the application or of the payload's form.
    pub version: String,
    /// Type of what will be written.
    pub dto_type: String,
    /// Its id.
    pub entity_id: String,
}

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// An intent came.
    Opened,
    /// It is still open, and stands here from now on.
    Carried,
    /// It ended.
    Closed,
}

/// A record of the intents' journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    /// What it is about.
    pub step: Step,
    /// The intent.
    pub intent_id: String,
    /// Of a carried one: sequence number of its first record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// While it is open: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private: Option<Private>,
    /// Of a closed one: `resolved` or `expired`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<crate::Ending>,
    /// Of a resolved one: how the write went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Of a resolved one: its audit event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// What the topic gets: canonical JSON.
    pub public: Box<RawValue>,
}

/// What the topic gets of a record; `None`: nothing, it was told before. The error: it is no record of an intent.
pub fn public_of(record: &[u8]) -> Result<Option<String>, serde_json::Error> {
    /// The rest is not even read.
    #[derive(Deserialize)]
    struct Public<'a> {
        step: Step,
        #[serde(borrow)]
        public: &'a RawValue,
    }
    let Public { step, public } = serde_json::from_slice(record)?;
    Ok((step != Step::Carried).then(|| public.get().to_owned()))
}

// === impl Private ===

impl Private {
    /// What it is about, as a keyed hash: two intents are the same if theirs is.
    pub fn print(&self, key: &IdKey) -> [u8; 16] {
        // A struct of text serialises.
        identity(key, "intent", &serde_json::to_string(self).unwrap_or_default())
    }
}

// === impl Stored ===

impl Stored {
    /// A record from a frame.
    pub fn read(record: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(record)
    }

    /// For the commit loop. An opened one and the ending each have one identity of an intent, a carried one has another each time.
    pub fn item(&self, key: &IdKey, received_ms: u64) -> Item {
        let (identity, print) = match self.step {
            Step::Opened => (
                identity(key, "opened", &self.intent_id),
                self.private.as_ref().map(|private| private.print(key)).unwrap_or_default(),
            ),
            Step::Carried => {
                let once = format!("{} {}", self.intent_id, uuid::Uuid::now_v7());
                (identity(key, "carried", &once), [0; 16])
            }
            Step::Closed => {
                let ending = format!("{:?} {}", self.state, self.outcome.as_deref().unwrap_or_default());
                (identity(key, "closed", &self.intent_id), identity(key, "ending", &ending))
            }
        };
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        let split = bytes.len();
        Item {
            identity,
            print,
            // The policy's redaction has no part in what is compared.
            rules: 0,
            filled: Filled::default(),
            halves: Halves { bytes, split, action: (0, 0), event_id: (0, 0) },
            tenant: None,
            // What was taken in must be able to end also where there is room for nothing new, and what is carried so that room comes where there is none for
            // that.
            critical: self.step == Step::Closed,
            ends: false,
            frees: self.step == Step::Carried,
            may_reuse: true,
            received_ms,
        }
    }
}
