//! Takes values out of the file and the environment by key, checks each against the table of keys, and collects every mistake
//! instead of stopping at the first. What nobody took is an unknown key. It knows kinds of values, not what they mean.

use super::keys::{self, KEYS, Key, Kind};
use super::secret::{Property, Secret};
use super::{Mistake, StateMemory, memory, span};
use crate::time::Span;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use toml::{Table, Value};

/// Properties that are set by a key of their own.
const OWNED_PROPERTIES: &[(&str, &str)] = &[
    ("bootstrap.servers", "set kafka.bootstrap_servers instead"),
    ("metadata.broker.list", "set kafka.bootstrap_servers instead"),
    ("group.id", "set input.group_id instead"),
    ("auto.offset.reset", "set input.start instead"),
];

/// Properties whose value must come as a secret.
const SECRET_PROPERTIES: &[&str] = &[
    "sasl.password",
    "ssl.key.password",
    "ssl.keystore.password",
    "ssl.key.pem",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
];

/// A value and where it stands.
enum Given {
    File(Value),
    Variable(String, String),
}

impl Given {
    fn origin(&self) -> Option<&str> {
        match self {
            Given::File(_) => None,
            Given::Variable(name, _) => Some(name),
        }
    }
}

/// All that was given, and the mistakes found so far.
pub(super) struct Reader {
    given: BTreeMap<String, Given>,
    environment: BTreeMap<String, String>,
    pub(super) mistakes: Vec<Mistake>,
}

impl Reader {
    /// Flattens the file's sections into paths and lays the environment over them.
    pub(super) fn new(file: Table, environment: BTreeMap<String, String>) -> Reader {
        let mut reader = Reader { given: BTreeMap::new(), environment, mistakes: Vec::new() };
        for (section, value) in file {
            reader.flatten(unquoted(section), value);
        }
        let variables: Vec<(String, String)> = reader.environment.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        for (name, text) in variables {
            reader.lay_over(name, text);
        }
        reader
    }

    fn flatten(&mut self, path: String, value: Value) {
        let below = format!("{path}.");
        let is_section = KEYS.iter().any(|k| k.path.starts_with(&below));
        match value {
            Value::Table(table) if is_section => {
                table.into_iter().for_each(|(name, value)| self.flatten(format!("{below}{}", unquoted(name)), value))
            }
            other if is_section => self.mistake(&path, None, format!("given {}, expected a section: [{path}]", shown(&other))),
            other => {
                self.given.insert(path, Given::File(other));
            }
        }
    }

    /// Only names with a double underscore are keys: Kubernetes puts `FIRSTSEEN_SERVICE_HOST` and the like into every pod.
    fn lay_over(&mut self, name: String, text: String) {
        let Some(rest) = name.strip_prefix("FIRSTSEEN_") else { return };
        if !rest.contains("__") {
            if let Some(key) = KEYS.iter().find(|k| k.path.replace('.', "_").eq_ignore_ascii_case(rest)) {
                self.mistake(key.path, Some(&name), format!("write two underscores between the levels: {}", keys::variable(key.path)));
            }
            return;
        }
        let path = rest.to_ascii_lowercase().replace("__", ".");
        self.given.insert(path, Given::Variable(name, text));
    }

    /// Notes a mistake.
    pub(super) fn mistake(&mut self, key: &str, variable: Option<&str>, message: String) {
        self.mistakes.push(Mistake { key: key.to_owned(), variable: variable.map(str::to_owned), message });
    }

    /// Whether a key was given at all.
    pub(super) fn is_given(&self, path: &str) -> bool {
        self.given.contains_key(path)
    }

    /// Notes a mistake if there is one.
    pub(super) fn refuse(&mut self, wrong: bool, key: &str, message: impl FnOnce() -> String) {
        if wrong {
            self.mistake(key, None, message());
        }
    }

    /// Whether a mistake was noted for a key already; a second one about the same would only confuse.
    pub(super) fn has_mistake(&self, key: &str) -> bool {
        self.mistakes.iter().any(|m| m.key == key)
    }

    /// Checks a topic's name by Kafka's rule.
    pub(super) fn topic(&mut self, key: &str, name: &str) {
        let good =
            name.len() <= 249 && name != "." && name != ".." && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c));
        self.refuse(!good, key, || format!("given {name:?}, expected a topic's name: at most 249 of a-z, A-Z, 0-9, '.', '_' and '-'"));
    }

    /// Reads an address with a port.
    pub(super) fn address(&mut self, key: &'static str) -> SocketAddr {
        let text = self.text(key);
        text.parse().unwrap_or_else(|_| {
            self.mistake(key, None, format!("given {text:?}, expected an address and a port such as \"127.0.0.1:9464\" or \"[::]:9464\""));
            SocketAddr::from(([127, 0, 0, 1], 9464))
        })
    }

    /// Takes a key: what was given if it is of the key's kind, else (with a mistake noted) the default.
    fn take<T>(
        &mut self,
        path: &'static str,
        from_file: impl Fn(&Key, &Value) -> Option<T>,
        from_text: impl Fn(&Key, &str) -> Option<T>,
    ) -> T {
        let key = keys::find(path).expect("INV: every key that is read stands in the table");
        if let Some(given) = self.given.remove(path) {
            let (value, what) = match &given {
                Given::File(value) => (from_file(key, value), shown(value)),
                Given::Variable(_, text) => (from_text(key, text), format!("{text:?}")),
            };
            match value {
                Some(value) => return value,
                None => self.mistake(path, given.origin(), format!("given {what}, expected {}", key.kind.expected())),
            }
        }
        let table: Table = format!("x = {}", key.default).parse().expect("INV: defaults in the table are TOML");
        table.get("x").and_then(|v| from_file(key, v)).expect("INV: defaults in the table are of their key's kind")
    }

    pub(super) fn text(&mut self, path: &'static str) -> String {
        let check = |text: &str| (!text.trim().is_empty()).then(|| text.to_owned());
        self.take(path, |_, v| v.as_str().and_then(check), |_, text| check(text))
    }

    /// A text that need not be given.
    pub(super) fn optional_text(&mut self, path: &'static str) -> Option<String> {
        let given = self.given.remove(path)?;
        let (text, what) = match &given {
            Given::File(value) => (value.as_str(), shown(value)),
            Given::Variable(_, text) => (Some(text.as_str()), format!("{text:?}")),
        };
        let text = text.filter(|text| !text.trim().is_empty()).map(str::to_owned);
        if text.is_none() {
            self.mistake(path, given.origin(), format!("given {what}, expected {}", Kind::Text.expected()));
        }
        text
    }

    /// What stands in the file under a name that is no section.
    pub(super) fn tables(&mut self, path: &str) -> Option<Value> {
        match self.given.remove(path)? {
            Given::File(value) => Some(value),
            Given::Variable(..) => None,
        }
    }

    pub(super) fn choice(&mut self, path: &'static str) -> &'static str {
        let pick = |key: &Key, text: &str| match key.kind {
            Kind::Choice(words) => words.iter().copied().find(|w| *w == text),
            _ => None,
        };
        self.take(path, |key, v| pick(key, v.as_str()?), pick)
    }

    pub(super) fn boolean(&mut self, path: &'static str) -> bool {
        self.take(path, |_, v| v.as_bool(), |_, text| text.parse().ok())
    }

    pub(super) fn integer(&mut self, path: &'static str) -> u32 {
        let within = |key: &Key, n: i64| match key.kind {
            Kind::Integer(low, high) if (low..=high).contains(&n) => u32::try_from(n).ok(),
            _ => None,
        };
        self.take(path, |key, v| within(key, v.as_integer()?), |key, text| within(key, text.parse().ok()?))
    }

    /// A number that need not be given.
    pub(super) fn optional_integer(&mut self, path: &'static str) -> Option<u32> {
        let given = self.given.remove(path)?;
        let kind = keys::find(path).expect("INV: every key that is read stands in the table").kind;
        let (number, what) = match &given {
            Given::File(value) => (value.as_integer(), shown(value)),
            Given::Variable(_, text) => (text.parse().ok(), format!("{text:?}")),
        };
        let number = number.filter(|n| matches!(kind, Kind::Integer(low, high) if (low..=high).contains(n)));
        let number = number.and_then(|n| u32::try_from(n).ok());
        if number.is_none() {
            self.mistake(path, given.origin(), format!("given {what}, expected {}", kind.expected()));
        }
        number
    }

    pub(super) fn state_memory(&mut self, path: &'static str) -> StateMemory {
        self.take(path, |_, v| memory::parse(v.as_str()?), |_, text| memory::parse(text))
    }

    pub(super) fn span(&mut self, path: &'static str) -> Span {
        self.take(path, |_, v| span::parse(v.as_str()?), |_, text| span::parse(text))
    }

    /// In the environment: texts separated by commas.
    pub(super) fn text_list(&mut self, path: &'static str) -> Vec<String> {
        let item = |text: &str| (!text.trim().is_empty()).then(|| text.to_owned());
        self.take(
            path,
            |_, v| v.as_array()?.iter().map(|v| v.as_str().and_then(item)).collect(),
            |_, text| if text.trim().is_empty() { Some(Vec::new()) } else { text.split(',').map(|t| item(t.trim())).collect() },
        )
    }

    pub(super) fn secret(&mut self, path: &'static str) -> Option<Secret> {
        match self.given.remove(path)? {
            Given::Variable(_, text) if !text.is_empty() => Some(Secret::new(text)),
            Given::Variable(name, _) => {
                self.mistake(path, Some(&name), "given an empty text, expected the secret itself".into());
                None
            }
            Given::File(value) => self.resolve(path, &value),
        }
    }

    /// Reads what `{ file = … }` or `{ env = … }` names. Messages never hold a value: it may be a secret in the wrong place.
    fn resolve(&mut self, path: &str, value: &Value) -> Option<Secret> {
        let reference =
            value.as_table().filter(|t| t.len() == 1).and_then(|t| t.iter().next()).and_then(|(k, v)| Some((k.as_str(), v.as_str()?)));
        let text = match reference {
            Some(("file", file)) => std::fs::read_to_string(file).map_err(|e| format!("can't read the secret's file {file}: {e}")),
            Some(("env", name)) => self
                .environment
                .get(name)
                .cloned()
                .ok_or_else(|| format!("environment variable {name} is not set, or is not UTF-8; set it to the secret")),
            _ => Err(format!("given {}, expected {}", kind_of(value), Kind::Secret.expected())),
        };
        match text.map(|t| t.trim_end_matches(['\r', '\n']).to_owned()) {
            Ok(text) if text.is_empty() => self.mistake(path, None, "the secret that it names is empty".into()),
            Ok(text) => return Some(Secret::new(text)),
            Err(message) => self.mistake(path, None, message),
        }
        None
    }

    /// All librdkafka properties. Environment: `FIRSTSEEN_KAFKA__PROPERTIES__SASL_PASSWORD` is `sasl.password`; values from there
    /// are treated as secrets.
    pub(super) fn properties(&mut self, path: &'static str) -> BTreeMap<String, Property> {
        let mut out = BTreeMap::new();
        match self.given.remove(path) {
            Some(Given::File(Value::Table(table))) => {
                table.iter().for_each(|(name, value)| self.property(path, name.clone(), value, &mut out))
            }
            Some(Given::File(other)) => {
                self.mistake(path, None, format!("given {}, expected {}", shown(&other), Kind::Properties.expected()))
            }
            Some(Given::Variable(name, _)) => {
                self.mistake(path, Some(&name), format!("name one property: {name}__SECURITY_PROTOCOL=… is security.protocol"))
            }
            None => {}
        }
        let below = format!("{path}.");
        let names: Vec<String> = self.given.keys().filter(|k| k.starts_with(&below)).cloned().collect();
        for full in names {
            let Some(Given::Variable(variable, text)) = self.given.remove(&full) else { continue };
            let name = full.strip_prefix(&below).unwrap_or(&full);
            let name = if name == "log_level" { name.to_owned() } else { name.replace('_', ".") };
            match OWNED_PROPERTIES.iter().find(|(n, _)| *n == name) {
                Some((_, hint)) => self.mistake(&format!("{below}{name}"), Some(&variable), format!("this property is not free: {hint}")),
                None => {
                    out.insert(name, Property::Hidden(Secret::new(text)));
                }
            }
        }
        out
    }

    /// A dotted name written without quotes makes nested tables; they mean the same property.
    fn property(&mut self, path: &str, name: String, value: &Value, out: &mut BTreeMap<String, Property>) {
        let at = format!("{path}.{name}");
        if let Some((_, hint)) = OWNED_PROPERTIES.iter().find(|(n, _)| *n == name) {
            return self.mistake(&at, None, format!("this property is not free: {hint}"));
        }
        let plain = match value {
            Value::Table(t) if t.len() == 1 && (t.contains_key("file") || t.contains_key("env")) => {
                if let Some(secret) = self.resolve(&at, value) {
                    out.insert(name, Property::Hidden(secret));
                }
                return;
            }
            Value::Table(t) => return t.iter().for_each(|(part, value)| self.property(path, format!("{name}.{part}"), value, out)),
            _ if SECRET_PROPERTIES.contains(&name.as_str()) => {
                return self.mistake(&at, None, format!("given {} in the file, expected {}", kind_of(value), Kind::Secret.expected()));
            }
            Value::String(text) => text.clone(),
            Value::Integer(n) => n.to_string(),
            Value::Float(n) => n.to_string(),
            Value::Boolean(b) => b.to_string(),
            other => return self.mistake(&at, None, format!("given {}, expected a text, number, boolean or secret", kind_of(other))),
        };
        out.insert(name, Property::Plain(plain));
    }

    /// Everything that nobody took is a mistake. Values are not shown: an unknown key may be a misspelt secret.
    pub(super) fn finish(mut self) -> Vec<Mistake> {
        for (path, given) in std::mem::take(&mut self.given) {
            let sections = KEYS.iter().filter_map(|k| k.path.split_once('.')).map(|(section, _)| section);
            let near = keys::nearest(&path, KEYS.iter().map(|k| k.path)).or_else(|| keys::nearest(&path, sections));
            let advice = match (near, given.origin()) {
                (Some(near), Some(_)) => format!("unknown key; the nearest known one is {near} ({})", keys::variable(near)),
                (Some(near), None) => format!("unknown key; the nearest known one is {near}"),
                (None, _) => "unknown key; docs/configuration.md lists the known ones".to_owned(),
            };
            self.mistake(&path, given.origin(), advice);
        }
        self.mistakes
    }
}

/// A name in a path. One that holds a dot itself must not look like two levels: `"kafka.preset" = …` is no `kafka.preset`.
fn unquoted(name: String) -> String {
    if name.contains('.') { format!("{name:?}") } else { name }
}

/// A value as a message shows it: what it is, and itself when it is short.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) if text.chars().count() <= 60 => format!("{text:?}"),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => format!("{value} ({})", kind_of(value)),
        _ => kind_of(value).to_owned(),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number with a fraction",
        Value::Boolean(_) => "a boolean",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}
