//! The bank of tickets and its split by entry.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// What the customer wants. The names are those of the bank's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Intent {
    /// Where the order is.
    OrderStatus,
    /// Shown as delivered, but not there.
    NotReceived,
    /// Arrived broken.
    DamagedItem,
    /// Something else arrived.
    WrongItem,
    /// Stop the order.
    CancelOrder,
    /// Send it elsewhere.
    ChangeAddress,
    /// Get back into the account.
    PasswordReset,
    /// An invoice.
    InvoiceRequest,
    /// Something about a product.
    ProductQuestion,
    /// A human being.
    Complaint,
    /// Nothing that we do.
    Other,
    /// Money back.
    RefundRequest,
    /// Where the money is.
    RefundStatus,
    /// How returns work.
    ReturnQuestion,
}

impl Intent {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::OrderStatus,
        Self::NotReceived,
        Self::DamagedItem,
        Self::WrongItem,
        Self::CancelOrder,
        Self::ChangeAddress,
        Self::PasswordReset,
        Self::InvoiceRequest,
        Self::ProductQuestion,
        Self::Complaint,
        Self::Other,
        Self::RefundRequest,
        Self::RefundStatus,
        Self::ReturnQuestion,
    ];

    /// The stem of its file in the bank.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OrderStatus => "order_status",
            Self::NotReceived => "not_received",
            Self::DamagedItem => "damaged_item",
            Self::WrongItem => "wrong_item",
            Self::CancelOrder => "cancel_order",
            Self::ChangeAddress => "change_address",
            Self::PasswordReset => "password_reset",
            Self::InvoiceRequest => "invoice_request",
            Self::ProductQuestion => "product_question",
            Self::Complaint => "complaint",
            Self::Other => "other",
            Self::RefundRequest => "refund_request",
            Self::RefundStatus => "refund_status",
            Self::ReturnQuestion => "return_question",
        }
    }

    /// The kind of agent that works it.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::RefundRequest | Self::RefundStatus | Self::ReturnQuestion => "refunds",
            _ => "support",
        }
    }

    /// Whether it cannot be worked without an order's number.
    pub const fn needs_order(self) -> bool {
        !matches!(
            self,
            Self::PasswordReset
                | Self::ProductQuestion
                | Self::Complaint
                | Self::Other
                | Self::ReturnQuestion
        )
    }
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which part of the bank. An entry is in one only, so nothing of validation or held-out was ever trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// For training: about 70 % of what is dealt out, and all of the folder `training`.
    Train,
    /// For watching the training, about 8 % of what is dealt out.
    Validation,
    /// For the example's goals and the final evaluation, about 22 % of what is dealt out.
    HeldOut,
}

/// Shares of the splits, in per cent; the rest is for validation.
const TRAIN_PERCENT: usize = 70;
const HELD_OUT_PERCENT: usize = 22;

/// The folder of entries that are in no split but the training split.
const TRAINING_FOLDER: &str = "training";

/// One ticket of the bank, its slots still open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// For example `order_status-001`.
    pub id: String,
    /// What the customer wants.
    pub intent: Intent,
    /// How it is written, for example `terse`.
    pub style: String,
    /// The words, with slots in braces.
    pub text: String,
}

impl Entry {
    /// Whether the ticket names an order.
    pub fn names_order(&self) -> bool {
        self.text.contains("{order}")
    }
}

/// All entries, each with its split.
#[derive(Debug, Clone)]
pub struct Bank {
    entries: Vec<(Split, Entry)>,
}

#[derive(Deserialize)]
struct Line {
    id: String,
    style: String,
    text: String,
}

impl Bank {
    /// The bank that this source tree holds.
    pub fn shipped() -> Result<Self> {
        Self::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("bank"))
    }

    /// Reads one file per intent from `folder`, and one from its folder `training`. The first are dealt out to the
    /// splits; the second are for training alone, so that whatever is written there leaves the other splits, and
    /// the figures that come from them, as they were.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut entries = Vec::new();
        for intent in Intent::ALL {
            let dealt = of_intent(folder, intent)?;
            let (with_order, without): (Vec<_>, Vec<_>) = dealt.into_iter().partition(Entry::names_order);
            entries.extend(split(with_order).chain(split(without)));
            let training = of_intent(&folder.join(TRAINING_FOLDER), intent)?;
            entries.extend(training.into_iter().map(|entry| (Split::Train, entry)));
        }
        Ok(Self { entries })
    }

    /// The entries of a split, by intent and a hash of their id.
    pub fn of(&self, split: Split) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |(of, _)| *of == split).map(|(_, entry)| entry)
    }
}

/// The entries of one intent in `folder`.
fn of_intent(folder: &Path, intent: Intent) -> Result<Vec<Entry>> {
    let path = folder.join(format!("{intent}.jsonl"));
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let mut entries = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line: Line =
            serde_json::from_str(line).with_context(|| format!("read {}:{number}", path.display()))?;
        if line.text.contains("{order}") && !intent.needs_order() {
            bail!("{}:{number}: {intent} takes no order number", path.display());
        }
        entries.push(Entry { id: line.id, intent, style: line.style, text: line.text });
    }
    Ok(entries)
}

/// Deals one stratum out: its entries in the order of a hash of their ids, the first share to training, the last to
/// the held-out split. An entry's place so depends on the ids of its stratum and on nothing else.
fn split(mut stratum: Vec<Entry>) -> impl Iterator<Item = (Split, Entry)> {
    stratum.sort_by_key(|entry| (hash(&entry.id), entry.id.clone()));
    let share = |percent: usize| (stratum.len() * percent + 50) / 100;
    let train = share(TRAIN_PERCENT);
    let held_out_from = stratum.len() - share(HELD_OUT_PERCENT).min(stratum.len() - train);
    stratum.into_iter().enumerate().map(move |(place, entry)| {
        let split = match place {
            place if place < train => Split::Train,
            place if place < held_out_from => Split::Validation,
            _ => Split::HeldOut,
        };
        (split, entry)
    })
}

/// FNV-1a, 64 bit, finished with the mixer of `SplitMix64`: ids that differ in a digit only still scatter.
fn hash(text: &str) -> u64 {
    let fnv = text.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Ids of the entries in the folder `training`.
    fn training_ids() -> HashSet<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("bank").join(TRAINING_FOLDER);
        let entries = Intent::ALL.into_iter().flat_map(|intent| of_intent(&folder, intent).unwrap());
        entries.map(|entry| entry.id).collect()
    }

    #[test]
    fn what_is_written_for_training_is_in_no_other_split() {
        let bank = Bank::shipped().unwrap();
        let for_training = training_ids();
        assert!(!for_training.is_empty());
        let trained: HashSet<&str> = bank.of(Split::Train).map(|entry| entry.id.as_str()).collect();
        assert!(for_training.iter().all(|id| trained.contains(id.as_str())));
        for split in [Split::Validation, Split::HeldOut] {
            assert!(bank.of(split).all(|entry| !for_training.contains(&entry.id)), "{split:?}");
        }
    }

    #[test]
    fn the_splits_have_their_shares_of_what_is_dealt_out_in_every_intent() {
        let mut bank = Bank::shipped().unwrap();
        let for_training = training_ids();
        bank.entries.retain(|(_, entry)| !for_training.contains(&entry.id));
        let total = bank.entries.len();
        let count = |split| bank.of(split).count();
        assert!((68..=72).contains(&(count(Split::Train) * 100 / total)));
        assert!((20..=24).contains(&(count(Split::HeldOut) * 100 / total)));
        assert!((6..=10).contains(&(count(Split::Validation) * 100 / total)));
        assert!(count(Split::HeldOut) >= 120, "the example needs 120 different entries");
        for intent in Intent::ALL {
            for split in [Split::Train, Split::Validation, Split::HeldOut] {
                assert!(bank.of(split).any(|entry| entry.intent == intent), "{intent} {split:?}");
            }
        }
    }

    #[test]
    fn ids_are_unique_and_slots_known() {
        let bank = Bank::shipped().unwrap();
        let ids: HashSet<&str> = bank.entries.iter().map(|(_, entry)| entry.id.as_str()).collect();
        assert_eq!(ids.len(), bank.entries.len());
        let slots = "order name fullname item email city date amount phone number";
        for (_, entry) in &bank.entries {
            let opened = entry.text.split('{').skip(1);
            for slot in opened.map(|rest| rest.split_once('}').map_or(rest, |(slot, _)| slot)) {
                assert!(slots.split(' ').any(|known| known == slot), "{}: {slot}", entry.id);
            }
            assert!(entry.text.matches("{order}").count() <= 1, "{}", entry.id);
        }
    }

    /// The words of three in a row, without case and punctuation.
    fn trigrams(text: &str) -> HashSet<Vec<String>> {
        let words: Vec<String> = text
            .split(|letter: char| !letter.is_alphanumeric() && !"{}'".contains(letter))
            .filter(|word| !word.is_empty())
            .map(str::to_lowercase)
            .collect();
        words.windows(3).map(<[String]>::to_vec).collect()
    }

    #[test]
    fn no_ticket_of_one_split_nearly_repeats_one_of_another() {
        let bank = Bank::shipped().unwrap();
        let grams: Vec<_> =
            bank.entries.iter().map(|(split, entry)| (split, entry, trigrams(&entry.text))).collect();
        let mut too_alike = Vec::new();
        for (place, (split, entry, of_entry)) in grams.iter().enumerate() {
            let others = grams.iter().skip(place + 1).filter(|(other_split, ..)| other_split != split);
            for (_, other, of_other) in others {
                let shared = of_entry.intersection(of_other).count();
                let all = of_entry.len() + of_other.len() - shared;
                if shared * 2 > all {
                    too_alike.push((&entry.id, &other.id));
                }
            }
        }
        assert!(too_alike.is_empty(), "{too_alike:?}");
    }
}
