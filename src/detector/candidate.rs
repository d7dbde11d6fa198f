//! A candidate: a connection that is new, and the finding that may come of it. What is kept of its opening event is compact:
//! one interned text that all connections of the same process with the same command line share.

use super::message::Answer;
use super::slab::{Row, Slab};
use super::timers::Armed;
use super::wire::{Get, Put, WireError};
use crate::defender::NetworkEvent;
use crate::finding::{FindingId, OpeningEvent};
use crate::time::Ticks;
use std::collections::{HashSet, VecDeque};

/// Event identities that a candidate remembers, so that a repeat counts once. The oldest counted goes first beyond it.
pub const REMEMBERED_IDENTITIES: usize = 4096;
/// Longest command line that is kept of an opening event, in bytes.
const COMMAND_LINE_BYTES: usize = 4096;

#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) device: u32,
    pub(crate) destination: u32,
    pub(crate) port: u32,
    /// Interned DeviceId and details of the event at `first`.
    pub(crate) device_id: u32,
    pub(crate) details: u32,
    pub(crate) report_id: i64,
    /// The last event before `first`; `MIN` when none is known.
    pub(crate) previous: Ticks,
    pub(crate) first: Ticks,
    pub(crate) last: Ticks,
    /// When its first day is over.
    pub(crate) end: Ticks,
    pub(crate) count: u32,
    /// First seen in an event that arrived more than `new_within` late.
    pub(crate) late: bool,
    pub(crate) identities: Identities,
    pub(crate) finding: Option<Box<Finding>>,
    /// The destination's answer, while the device is third-party; not persisted.
    pub(crate) answer: Option<Box<Answer>>,
    /// Not persisted, as every timer.
    pub(crate) timer: Armed,
    /// Its place in its device's list; not persisted.
    pub(crate) place: u32,
}

impl Candidate {
    /// Reads what an event of its connection will read.
    #[inline]
    pub(crate) fn touch(&self) -> u64 {
        u64::from(self.count) ^ self.previous.0 as u64 ^ self.identities.first ^ u64::from(self.place)
    }
}

/// A finding: it exists from the first opening to the end of its candidate.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finding {
    pub(crate) id: FindingId,
    pub(crate) revision: u32,
    pub(crate) open: bool,
    /// What stands in the last written change.
    pub(crate) written: Ticks,
    pub(crate) count: u32,
    pub(crate) answer: Answer,
}

/// The identities counted, in the order of counting.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    first: u64,
    more: Option<Box<More>>,
}

#[derive(Debug, Default)]
struct More {
    order: VecDeque<u64>,
    /// Only past a length where looking through them would show.
    set: Option<HashSet<u64, foldhash::fast::FixedState>>,
}

const LINEAR: usize = 32;

impl Identities {
    pub(crate) fn new(first: u64) -> Self {
        Identities { first, more: None }
    }

    /// Remembers an identity; false when it was remembered already.
    pub(crate) fn insert(&mut self, identity: u64) -> bool {
        let Some(more) = &mut self.more else {
            if identity == self.first {
                return false;
            }
            self.more = Some(Box::new(More { order: VecDeque::from([self.first, identity]), set: None }));
            return true;
        };
        let known = more.set.as_ref().map_or_else(|| more.order.contains(&identity), |set| set.contains(&identity));
        if known {
            return false;
        }
        more.order.push_back(identity);
        if let Some(set) = &mut more.set {
            set.insert(identity);
        } else if more.order.len() > LINEAR {
            more.set = Some(more.order.iter().copied().collect());
        }
        if more.order.len() > REMEMBERED_IDENTITIES
            && let Some(oldest) = more.order.pop_front()
            && let Some(set) = &mut more.set
        {
            set.remove(&oldest);
        }
        true
    }

    /// How many are remembered, and a digest of them, whatever their order.
    pub(crate) fn digest(&self) -> (usize, u64) {
        let mixed = |identity: u64| xxhash_rust::xxh3::xxh3_64(&identity.to_le_bytes());
        match &self.more {
            None => (1, mixed(self.first)),
            Some(more) => (more.order.len(), more.order.iter().map(|i| mixed(*i)).fold(0, u64::wrapping_add)),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match &self.more {
            None => {
                out.put_u32(1);
                out.put_u64(self.first);
            }
            Some(more) => {
                out.put_u32(more.order.len() as u32);
                more.order.iter().for_each(|i| out.put_u64(*i));
            }
        }
    }

    fn decode(bytes: &mut Get<'_>) -> Result<Self, WireError> {
        let n = bytes.count(8)?;
        if n == 0 {
            return Err(WireError::Invalid("a candidate without an event"));
        }
        let mut identities = Identities::new(bytes.u64()?);
        for _ in 1..n {
            identities.insert(bytes.u64()?);
        }
        Ok(identities)
    }
}

/// Identity of an event: (DeviceId, ReportId, Timestamp), as 64 bits of a pinned hash.
pub(crate) fn identity(device: u64, event: &NetworkEvent<'_>) -> u64 {
    let mut bytes = [0u8; 24];
    bytes[..8].copy_from_slice(&device.to_le_bytes());
    bytes[8..16].copy_from_slice(&event.report_id.to_le_bytes());
    bytes[16..].copy_from_slice(&event.timestamp.0.to_le_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

/// Packs what is kept of an opening event, but for its report id, into one text: the fields' lengths, then the fields.
pub(crate) fn pack_details(event: &NetworkEvent<'_>, scratch: &mut String) {
    use std::fmt::Write;
    let command_line = event.command_line.text();
    let fields = [
        event.action_type.text(),
        event.file_name.text(),
        event.folder_path.text(),
        &command_line[..command_line.floor_char_boundary(COMMAND_LINE_BYTES)],
        event.sha256.text(),
        event.account_domain.text(),
        event.account_name.text(),
        event.company,
        event.product.text(),
    ];
    scratch.clear();
    for field in fields {
        let _ = write!(scratch, "{},", field.len());
    }
    fields.iter().for_each(|field| scratch.push_str(field));
}

/// The reverse of [`pack_details`]; what can't be read is empty.
pub(crate) fn unpack_details(packed: &str, report_id: i64) -> OpeningEvent {
    let mut lengths = packed.splitn(10, ',');
    let mut sizes = [0usize; 9];
    for size in &mut sizes {
        *size = lengths.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    }
    let mut rest = lengths.next().unwrap_or("");
    let mut field = sizes.iter().map(|&n| {
        let (head, tail) = rest.split_at_checked(n).unwrap_or(("", ""));
        rest = tail;
        head.to_owned()
    });
    let mut next = || field.next().unwrap_or_default();
    let (action, file_name, folder_path, command_line, sha256) = (next(), next(), next(), next(), next());
    let (domain, name) = (next(), next());
    let account = if domain.is_empty() || name.is_empty() { name } else { format!("{domain}\\{name}") };
    OpeningEvent { report_id, action, file_name, folder_path, command_line, sha256, account, company: next(), product: next() }
}

impl Row for Candidate {
    type Lists = ();

    fn encode(&self, (): &(), out: &mut Vec<u8>) {
        for v in [self.device, self.destination, self.port, self.device_id, self.details, self.count] {
            out.put_u32(v);
        }
        out.put_u64(self.report_id as u64);
        for t in [self.previous, self.first, self.last, self.end] {
            out.put_ticks(t);
        }
        out.put_u8(u8::from(self.late));
        self.identities.encode(out);
        match &self.finding {
            None => out.put_u8(0),
            Some(f) => {
                out.put_u8(1 + u8::from(f.open));
                out.extend_from_slice(&f.id.0);
                out.put_u32(f.revision);
                out.put_ticks(f.written);
                out.put_u32(f.count);
                out.put_u32(f.answer.prevalence);
                out.put_u64(f.answer.urls);
            }
        }
    }

    fn decode(bytes: &mut Get<'_>, _: u32, (): &mut ()) -> Result<Self, WireError> {
        let [device, destination, port, device_id, details, count] =
            [bytes.u32()?, bytes.u32()?, bytes.u32()?, bytes.u32()?, bytes.u32()?, bytes.u32()?];
        let report_id = bytes.u64()? as i64;
        let [previous, first, last, end] = [bytes.ticks()?, bytes.ticks()?, bytes.ticks()?, bytes.ticks()?];
        let late = bytes.u8()? != 0;
        let identities = Identities::decode(bytes)?;
        let finding = match bytes.u8()? {
            0 => None,
            kind @ (1 | 2) => {
                let mut id = [0u8; 16];
                for b in &mut id {
                    *b = bytes.u8()?;
                }
                let (revision, written, count) = (bytes.u32()?, bytes.ticks()?, bytes.u32()?);
                let answer = Answer { prevalence: bytes.u32()?, urls: bytes.u64()? };
                Some(Box::new(Finding { id: FindingId(id), revision, open: kind == 2, written, count, answer }))
            }
            _ => return Err(WireError::Invalid("finding kind")),
        };
        Ok(Candidate {
            device,
            destination,
            port,
            device_id,
            details,
            report_id,
            previous,
            first,
            last,
            end,
            count,
            late,
            identities,
            finding,
            answer: None,
            timer: Armed::NEVER,
            place: 0,
        })
    }
}

/// All live candidates.
pub(crate) type Candidates = Slab<Candidate>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_survive_packing() {
        let event = NetworkEvent {
            action_type: "ConnectionSuccess".into(),
            file_name: "a,b.exe".into(),
            command_line: "\"a,b.exe\" 1,2 ü".into(),
            account_domain: "CORP".into(),
            account_name: "svc".into(),
            company: "Acme, Inc.",
            ..NetworkEvent::default()
        };
        let mut packed = String::new();
        pack_details(&event, &mut packed);
        let back = unpack_details(&packed, 7);
        assert_eq!(
            (back.action.as_str(), back.file_name.as_str(), back.command_line.as_str()),
            ("ConnectionSuccess", "a,b.exe", "\"a,b.exe\" 1,2 ü")
        );
        assert_eq!(
            (back.account.as_str(), back.company.as_str(), back.sha256.as_str(), back.report_id),
            ("CORP\\svc", "Acme, Inc.", "", 7)
        );
    }

    #[test]
    fn a_long_command_line_is_cut_between_characters() {
        let long = "ü".repeat(4000);
        let mut packed = String::new();
        pack_details(&NetworkEvent { command_line: (&long).into(), company: "c", ..NetworkEvent::default() }, &mut packed);
        let back = unpack_details(&packed, 0);
        assert_eq!((back.command_line.len(), back.company.as_str()), (COMMAND_LINE_BYTES, "c"));
    }

    #[test]
    fn identities_are_remembered_up_to_the_bound() {
        let mut identities = Identities::new(0);
        assert!(!identities.insert(0));
        for i in 1..=REMEMBERED_IDENTITIES as u64 {
            assert!(identities.insert(i));
            assert!(!identities.insert(i));
        }
        assert!(identities.insert(0), "the oldest was forgotten");
        assert!(!identities.insert(2));
        let mut bytes = Vec::new();
        identities.encode(&mut bytes);
        let mut back = Identities::decode(&mut Get(&bytes)).unwrap();
        assert!(!back.insert(2) && !back.insert(0));
    }
}
