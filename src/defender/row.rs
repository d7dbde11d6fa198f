//! One record of a message: envelope and row scanned in one pass, then judged by the rules of [`decode`](super::decode).
//!
//! Invariant: scanning fails only where the text is not JSON, and then nothing of the message may count; judging a record
//! never touches its siblings. Columns are collected before the table is known, since `properties` may stand before
//! `category`. What comes out is [`packed`](super::packed).

use super::decode::{Limits, MAX_RECORD_DEPTH};
use super::fault::Fault;
use super::packed::{Packed, PackedBody, PackedNetwork, Row};
use super::reason::Reason;
use super::scan::{Scanner, Syntax};
use super::token::{Text, Token, Value, unescape};
use crate::time::Ticks;

/// The tables that are read; all others are skipped.
pub(super) const NETWORK_CATEGORY: &str = "AdvancedHunting-DeviceNetworkEvents";
/// See [`NETWORK_CATEGORY`].
pub(super) const DEVICE_CATEGORY: &str = "AdvancedHunting-DeviceInfo";

/// What the envelope holds.
#[derive(Default)]
struct Envelope {
    time: Token,
    tenant: Token,
    category: Token,
    properties: Token,
    columns: Columns,
    depth: usize,
}

/// The columns that are kept, of either table.
#[derive(Default)]
struct Columns {
    timestamp: Token,
    device_id: Token,
    device_name: Token,
    report_id: Token,
    action_type: Token,
    remote_ip: Token,
    remote_ip_type: Token,
    remote_port: Token,
    remote_url: Token,
    company: Token,
    product: Token,
    file_name: Token,
    folder_path: Token,
    command_line: Token,
    sha256: Token,
    account_name: Token,
    account_domain: Token,
    os_platform: Token,
    device_type: Token,
}

impl Columns {
    /// Where a column's value goes; `None` when it is not kept. By length first: nearly all that come are not kept.
    #[inline]
    fn place(&mut self, key: &[u8]) -> Option<&mut Token> {
        match key.len() {
            8 => match key {
                b"DeviceId" => Some(&mut self.device_id),
                b"ReportId" => Some(&mut self.report_id),
                b"RemoteIP" => Some(&mut self.remote_ip),
                _ => None,
            },
            9 => match key {
                b"Timestamp" => Some(&mut self.timestamp),
                b"RemoteUrl" => Some(&mut self.remote_url),
                _ => None,
            },
            10 => match key {
                b"DeviceName" => Some(&mut self.device_name),
                b"ActionType" => Some(&mut self.action_type),
                b"RemotePort" => Some(&mut self.remote_port),
                b"OSPlatform" => Some(&mut self.os_platform),
                b"DeviceType" => Some(&mut self.device_type),
                _ => None,
            },
            12 => (key == b"RemoteIPType").then_some(&mut self.remote_ip_type),
            23 => (key == b"InitiatingProcessSHA256").then_some(&mut self.sha256),
            25 => (key == b"InitiatingProcessFileName").then_some(&mut self.file_name),
            27 => (key == b"InitiatingProcessFolderPath").then_some(&mut self.folder_path),
            28 => match key {
                b"InitiatingProcessCommandLine" => Some(&mut self.command_line),
                b"InitiatingProcessAccountName" => Some(&mut self.account_name),
                _ => None,
            },
            30 => (key == b"InitiatingProcessAccountDomain").then_some(&mut self.account_domain),
            39 => match key {
                b"InitiatingProcessVersionInfoCompanyName" => Some(&mut self.company),
                b"InitiatingProcessVersionInfoProductName" => Some(&mut self.product),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Scans and judges the element that starts at the scanner's next byte.
///
/// `arena` takes the strings that had to be unescaped, and all others that the row names if it `owns` them.
pub(super) fn read(
    scanner: &mut Scanner<'_>,
    message: &str,
    index: u32,
    limits: &Limits,
    arena: &mut String,
    owns: bool,
) -> Result<Row, Syntax> {
    let is_object = scanner.peek() == b'{';
    let start = scanner.at();
    let outcome = if is_object {
        let mut envelope = Envelope { depth: 1, ..Envelope::default() };
        envelope.read(scanner, message)?;
        let mark = arena.len();
        let outcome = Judge { message, arena: &mut *arena, owns }.record(&envelope, limits);
        if let Err(fault) = &outcome
            && !fault.needs_arena()
        {
            arena.truncate(mark);
        }
        outcome
    } else {
        let found = scanner.value()?;
        scanner.take_depth();
        Err(Fault::RecordNotObject { found: found.describe() })
    };
    Ok(Row { index: Some(index), start: start as u32, end: scanner.at() as u32, outcome })
}

impl Envelope {
    /// Scans a record that starts with a brace. Of keys that come twice the last one holds.
    fn read(&mut self, scanner: &mut Scanner<'_>, message: &str) -> Result<(), Syntax> {
        scanner.take_depth();
        scanner.bump();
        let mut first = true;
        while scanner.object_goes_on(first)? {
            first = false;
            let key = scanner.key()?;
            let unescaped;
            let name = match key.unpack() {
                Value::Escaped(text) => {
                    unescaped = unescape_key(text, message);
                    unescaped.as_bytes()
                }
                Value::Plain(text) => scanner.plain(text),
                _ => &[],
            };
            let place = match name {
                b"time" => Some(&mut self.time),
                b"tenantId" => Some(&mut self.tenant),
                b"category" => Some(&mut self.category),
                b"properties" => {
                    self.columns = Columns::default();
                    self.properties = if scanner.peek() == b'{' {
                        self.depth = self.depth.max(1 + scanner.take_depth());
                        self.columns.read(scanner, message)?;
                        self.depth = self.depth.max(2 + scanner.take_depth());
                        Token::OBJECT
                    } else {
                        scanner.value()?
                    };
                    continue;
                }
                _ => None,
            };
            let value = scanner.value()?;
            if let Some(place) = place {
                *place = value;
            }
        }
        self.depth = self.depth.max(1 + scanner.take_depth());
        Ok(())
    }
}

impl Columns {
    /// Scans a row that starts with a brace.
    fn read(&mut self, scanner: &mut Scanner<'_>, message: &str) -> Result<(), Syntax> {
        scanner.bump();
        let mut first = true;
        while scanner.object_goes_on(first)? {
            first = false;
            let key = scanner.key()?;
            let place = match key.unpack() {
                Value::Plain(text) => self.place(scanner.plain(text)),
                Value::Escaped(text) => self.place(unescape_key(text, message).as_bytes()),
                _ => None,
            };
            let value = scanner.value()?;
            if let Some(place) = place {
                *place = value;
            }
        }
        Ok(())
    }
}

/// A key that holds escapes, by its meaning. Defender writes none, so an allocation will do.
#[cold]
fn unescape_key(text: Text, message: &str) -> String {
    let mut name = String::new();
    unescape(text.resolve(message, ""), &mut name);
    name
}

/// Turns scanned tokens into a record, or says why it is none. The first fault in the order of the code is the one named.
struct Judge<'m, 'a> {
    message: &'m str,
    arena: &'a mut String,
    /// All strings go to the arena.
    owns: bool,
}

impl Judge<'_, '_> {
    fn record(&mut self, envelope: &Envelope, limits: &Limits) -> Result<Packed, Fault> {
        if envelope.depth > MAX_RECORD_DEPTH {
            return Err(Fault::TooDeep { levels: envelope.depth });
        }
        let arrival = self.instant("time", envelope.time, Reason::MissingTime, Reason::BadTime)?;
        if let Some(clock) = limits.independent_clock
            && arrival > clock.plus(limits.max_clock_skew)
        {
            return Err(Fault::TimeAhead { time: arrival, clock, skew: limits.max_clock_skew });
        }
        let tenant = self.text("tenantId", envelope.tenant)?;
        let category = self.text("category", envelope.category)?;
        let tenant = self.keep(tenant);
        let body = match self.resolve(category) {
            "" => return Err(Fault::Missing { reason: Reason::MissingCategory, key: "category" }),
            NETWORK_CATEGORY => PackedBody::Network(self.network(self.row(envelope)?)?),
            DEVICE_CATEGORY => self.device(self.row(envelope)?)?,
            _ => PackedBody::Skipped(self.keep(category)),
        };
        Ok(Packed { arrival, tenant, body })
    }

    fn row<'e>(&self, envelope: &'e Envelope) -> Result<&'e Columns, Fault> {
        match envelope.properties {
            Token::OBJECT => Ok(&envelope.columns),
            Token::NULL => Err(Fault::Missing { reason: Reason::MissingProperties, key: "properties" }),
            other => Err(Fault::WrongType { key: "properties", expected: "an object", found: other.describe() }),
        }
    }

    fn network(&mut self, columns: &Columns) -> Result<PackedNetwork, Fault> {
        let mut network = PackedNetwork {
            timestamp: self.timestamp(columns)?,
            report_id: self.integer("ReportId", columns.report_id, Reason::BadReportId)?.unwrap_or(0),
            remote_port: self.integer("RemotePort", columns.remote_port, Reason::BadPort)?,
            device_id: self.text("DeviceId", columns.device_id)?,
            device_name: self.text("DeviceName", columns.device_name)?,
            action_type: self.text("ActionType", columns.action_type)?,
            remote_ip: self.text("RemoteIP", columns.remote_ip)?,
            remote_ip_type: self.text("RemoteIPType", columns.remote_ip_type)?,
            remote_url: self.text("RemoteUrl", columns.remote_url)?,
            company: self.text("InitiatingProcessVersionInfoCompanyName", columns.company)?,
            product: self.text("InitiatingProcessVersionInfoProductName", columns.product)?,
            file_name: self.text("InitiatingProcessFileName", columns.file_name)?,
            folder_path: self.text("InitiatingProcessFolderPath", columns.folder_path)?,
            command_line: self.text("InitiatingProcessCommandLine", columns.command_line)?,
            sha256: self.text("InitiatingProcessSHA256", columns.sha256)?,
            account_name: self.text("InitiatingProcessAccountName", columns.account_name)?,
            account_domain: self.text("InitiatingProcessAccountDomain", columns.account_domain)?,
        };
        // What the detector looks at of each record side by side, what is only shown of a few behind it.
        for text in [
            &mut network.remote_ip,
            &mut network.remote_url,
            &mut network.device_id,
            &mut network.action_type,
            &mut network.remote_ip_type,
            &mut network.device_name,
            &mut network.company,
            &mut network.product,
            &mut network.file_name,
            &mut network.folder_path,
            &mut network.command_line,
            &mut network.sha256,
            &mut network.account_name,
            &mut network.account_domain,
        ] {
            *text = self.keep(*text);
        }
        Ok(network)
    }

    fn device(&mut self, columns: &Columns) -> Result<PackedBody, Fault> {
        let timestamp = self.timestamp(columns)?;
        let mut texts = [
            self.text("DeviceId", columns.device_id)?,
            self.text("DeviceName", columns.device_name)?,
            self.text("OSPlatform", columns.os_platform)?,
            self.text("DeviceType", columns.device_type)?,
        ];
        texts.iter_mut().for_each(|text| *text = self.keep(*text));
        let [device_id, device_name, os_platform, device_type] = texts;
        Ok(PackedBody::Device { timestamp, device_id, device_name, os_platform, device_type })
    }

    fn timestamp(&mut self, columns: &Columns) -> Result<Ticks, Fault> {
        self.instant("Timestamp", columns.timestamp, Reason::MissingTimestamp, Reason::BadTimestamp)
    }

    fn instant(&mut self, key: &'static str, token: Token, missing: Reason, bad: Reason) -> Result<Ticks, Fault> {
        let value = self.text(key, token)?;
        let text = self.resolve(value);
        if text.is_empty() {
            return Err(Fault::Missing { reason: missing, key });
        }
        Ticks::parse(text).ok_or_else(|| Fault::BadValue { reason: bad, key, value: self.keep(value) })
    }

    /// An integer in `T`'s range, read as such and never through a double; `None` for null and for a missing key.
    #[inline]
    fn integer<T: std::str::FromStr>(&mut self, key: &'static str, token: Token, bad: Reason) -> Result<Option<T>, Fault>
    where
        i64: TryInto<T>,
    {
        match token.unpack() {
            Value::Null => Ok(None),
            Value::Number(value) => {
                let number = self.resolve(value).parse::<i64>().ok().and_then(|n| n.try_into().ok());
                number.map(Some).ok_or_else(|| Fault::BadValue { reason: bad, key, value: self.keep(value) })
            }
            _ => Err(Fault::WrongType { key, expected: "an integer or null", found: token.describe() }),
        }
    }

    /// A string; null and a missing key are the empty one.
    #[inline]
    fn text(&mut self, key: &'static str, token: Token) -> Result<Text, Fault> {
        match token.unpack() {
            Value::Plain(text) => Ok(text),
            Value::Null => Ok(Text::EMPTY),
            Value::Escaped(text) => {
                let start = self.arena.len();
                unescape(text.resolve(self.message, ""), self.arena);
                Ok(Text::in_arena(start, self.arena.len()))
            }
            _ => Err(Fault::WrongType { key, expected: "a string or null", found: token.describe() }),
        }
    }

    /// Makes a string the arena's own, if all are to be.
    #[inline]
    fn keep(&mut self, text: Text) -> Text {
        if !self.owns || text.is_in_arena() {
            return text;
        }
        let start = self.arena.len();
        self.arena.push_str(text.resolve(self.message, ""));
        Text::in_arena(start, self.arena.len())
    }

    fn resolve(&self, text: Text) -> &str {
        text.resolve(self.message, self.arena)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_has_a_place_of_its_own() {
        let names = [
            "Timestamp",
            "DeviceId",
            "DeviceName",
            "ReportId",
            "ActionType",
            "RemoteIP",
            "RemoteIPType",
            "RemotePort",
            "RemoteUrl",
            "InitiatingProcessVersionInfoCompanyName",
            "InitiatingProcessVersionInfoProductName",
            "InitiatingProcessFileName",
            "InitiatingProcessFolderPath",
            "InitiatingProcessCommandLine",
            "InitiatingProcessSHA256",
            "InitiatingProcessAccountName",
            "InitiatingProcessAccountDomain",
            "OSPlatform",
            "DeviceType",
        ];
        let mut columns = Columns::default();
        for name in names {
            let place = columns.place(name.as_bytes()).unwrap();
            assert_eq!(*place, Token::NULL, "{name} shares a place");
            *place = Token::BOOL;
        }
        assert!(columns.place(b"RemoteIPtype").is_none());
    }
}
