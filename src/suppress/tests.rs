//! Rules as a whole: what they match, what is refused and how it is told.

use super::read::example;
use super::*;
use crate::finding::json::tests::example as finding;
use crate::time::Span;

fn rules(text: &str) -> Rules {
    Rules::default().and_file(text).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
}

fn refused(text: &str) -> Vec<String> {
    Rules::default().and_file(text).unwrap_err().iter().map(ToString::to_string).collect()
}

fn with(matchers: &str) -> Rules {
    rules(&format!("[[suppress]]\nname = \"it\"\nreason = \"ours\"\nowner = \"soc\"\n{matchers}"))
}

fn marked(rules: &Rules, change: &Change) -> Option<String> {
    let mut change = change.clone();
    rules.mark(&mut change, &Settings::default(), &Privileged::none());
    change.suppressed_by.map(|name| name.to_string())
}

fn hides(matchers: &str, change: &Change) -> bool {
    marked(&with(matchers), change).is_some()
}

#[test]
fn each_matcher_matches_the_example_and_all_must() {
    let matchers = [
        "domain_suffix = \"acme.example\"",
        "cidr = [\"198.51.100.0/24\", \"203.0.113.0/24\"]",
        "vendor = \"ACME backup\"",
        "device = \"srv-sql-*\"",
        "port = [80, 443]",
        "process = 'C:\\Program Files\\Acme\\*.exe'",
        "cel = \"finding.count < 5\"",
    ];
    for matcher in matchers {
        assert!(hides(matcher, &finding()), "{matcher}");
    }
    assert!(hides(&matchers.join("\n"), &finding()));
    for (n, wrong) in [
        "domain_suffix = \"other.example\"",
        "cidr = \"198.51.100.0/24\"",
        "vendor = \"Acme\"",
        "device = \"srv-web-*\"",
        "port = 80",
        "process = '/opt/acme/*'",
        "cel = \"finding.count > 5\"",
    ]
    .into_iter()
    .enumerate()
    {
        let mut all = matchers;
        all[n] = wrong;
        assert!(!hides(&all.join("\n"), &finding()), "{wrong}");
    }
}

#[test]
fn a_finding_is_shown_when_only_part_of_it_is_trusted() {
    let two = Change { urls: vec!["update.acme.example".into(), "c2.evil.example".into()], ..finding() };
    assert!(!hides("domain_suffix = \"acme.example\"", &two), "one of two names is not trusted");
    let more = Change { urls_truncated: true, ..finding() };
    assert!(!hides("domain_suffix = \"acme.example\"", &more), "there are names that nobody sees");
    let none = Change { urls: vec![], ..finding() };
    assert!(!hides("domain_suffix = \"acme.example\"", &none), "no name is no trusted name");
    // The rare vendors of the device are not what connected.
    let mut other = Change { vendors: vec![("Acme Backup".into(), 3), ("Evil".into(), 1)], ..finding() };
    other.event.company = "Evil".into();
    assert!(!hides("vendor = \"Acme Backup\"", &other));
    let mut unknown = finding();
    unknown.event = Default::default();
    unknown.remote_port = None;
    for matcher in
        ["vendor = \"Acme Backup\"", "process = 'c:\\program files\\acme\\*'", "port = 443", "cel = \"finding.remote.port == 443\""]
    {
        assert!(!hides(matcher, &unknown), "{matcher} of a finding without it");
    }
}

#[test]
fn the_first_rule_that_matches_gives_its_name_and_one_without_a_name_gets_a_number() {
    let rule = |more: &str| format!("[[suppress]]\nreason = \"r\"\nowner = \"o\"\n{more}\n");
    let three = rules(&[rule("port = 80"), rule("port = 443"), rule("name = \"third\"\nport = 443")].join(""));
    assert_eq!(marked(&three, &finding()).as_deref(), Some("rule-2"));
    assert_eq!(marked(&Rules::default(), &Change { suppressed_by: Some("old".into()), ..finding() }), None, "a mark is of the rules now");
    let after = three.and_file(&rule("port = 22")).unwrap();
    assert_eq!(after.iter().map(|r| &*r.name).collect::<Vec<_>>(), ["rule-1", "rule-2", "third", "rule-4"]);
}

#[test]
fn a_rule_expires_by_the_instant_of_the_change() {
    let until = with("port = 443\nexpires = 2026-03-01T10:24:11.5Z");
    let before = Change { at: finding().at.minus(Span(1)), ..finding() };
    assert_eq!((marked(&until, &before).is_some(), marked(&until, &finding()).is_some()), (true, false));
    for (written, last) in [
        ("2026-03-01", "2026-03-01T23:59:59.9999999Z"),
        ("\"2026-03-01\"", "2026-03-01T23:59:59.9999999Z"),
        ("\"2026-03-02T00:00:00Z\"", "2026-03-01T23:59:59.9999999Z"),
    ] {
        let rules = with(&format!("port = 443\nexpires = {written}"));
        let last = Change { at: Ticks::parse(last).unwrap(), ..finding() };
        let next = Change { at: last.at.plus(Span(1)), ..finding() };
        assert_eq!((marked(&rules, &last).is_some(), marked(&rules, &next).is_some()), (true, false), "{written}");
        assert_eq!(rules.expired(next.at).count(), 1);
    }
}

#[test]
fn all_mistakes_of_all_rules_are_told_by_number_and_key() {
    let text = "
[[suppress]]
cidr = \"203.0.113.0/24\"
[[suppress]]
reason = \"r\"
owner = \"o\"
[[suppress]]
reason = \"r\"
owner = \" \"
domian_suffix = \"com\"
domain_suffix = [\"microsoft.com\", \"co.uk\"]
port = 70000
process = \"x.exe\"
device = [\"a\", 1]
cel = \"finding.count == 'x'\"
expires = \"0 0 * * *\"
name = \"a b\"
[[suppress]]
name = \"twice\"
reason = \"r\"
owner = \"o\"
port = 1
[[suppress]]
name = \"twice\"
reason = \"r\"
owner = \"o\"
port = 2
";
    assert_eq!(
        refused(text),
        [
            "suppress[1].reason: is missing; expected a text: why what it matches needs no attention",
            "suppress[1].owner: is missing; expected a text: who answers for it",
            "suppress[2]: matches every finding; expected at least one of domain_suffix, cidr, vendor, device, port, process, cel",
            "suppress[3].domian_suffix: unknown key; expected domain_suffix",
            "suppress[3].name: given \"a b\", expected at most 64 of a-z, A-Z, 0-9, '.', '_' and '-'",
            "suppress[3].owner: expected text in quotes, not empty",
            "suppress[3].expires: expected a date such as 2027-03-31, or an instant such as 2027-03-31T18:00:00Z",
            "suppress[3].domain_suffix: given \"co.uk\", which is a public suffix: anybody can have a name under it; expected a registered domain such as \"contoso.co.uk\"",
            "suppress[3].device: expected a text, or a list of at most 1000 texts, none of them empty",
            "suppress[3].port: expected a number from 0 to 65535, or a list of such",
            "suppress[3].process: given \"x.exe\", expected a whole path such as \"c:\\\\program files\\\\acme\\\\*.exe\" or \"/opt/acme/**\", or a SHA-256 in hex",
            "suppress[3].cel: compares a number with a text, which is never so",
            "suppress[5].name: \"twice\" is another rule's name; expected each name once",
        ]
    );
    assert_eq!(refused("suppress = 1"), ["suppress: expected [[suppress]] tables"]);
    assert_eq!(refused("[kafka]\npreset = \"kafka\""), ["kafka: unknown key; expected [[suppress]] tables alone"]);
    assert!(refused("[[suppress]\n")[0].starts_with("line 1, column 12: not TOML"), "{:?}", refused("[[suppress]\n"));
    assert!(refused(&"[[suppress]]\nport = 1\nreason = \"r\"\nowner = \"o\"\n".repeat(1001))[0].contains("expected at most 1000"));
    assert!(rules("").is_empty());
}

#[test]
fn what_ends_a_finding_is_always_written() {
    let drop = Suppression { rules: Rules::default(), fate: Fate::Drop };
    let change = |kind, by: Option<&str>| Change { kind, suppressed_by: by.map(Into::into), ..finding() };
    for (kind, out) in
        [(ChangeKind::Opened, false), (ChangeKind::Updated, false), (ChangeKind::Retracted, true), (ChangeKind::Closed, true)]
    {
        assert_eq!(drop.lets_out(&change(kind, Some("r"))), out, "{kind:?}");
        assert!(drop.lets_out(&change(kind, None)) && Suppression::default().lets_out(&change(kind, Some("r"))));
        let topic = Suppression { fate: Fate::Topic("t".into()), ..drop.clone() };
        assert_eq!((topic.lets_out(&change(kind, Some("r"))), topic.elsewhere(&change(kind, Some("r")))), (out, Some("t")), "{kind:?}");
        assert_eq!(
            (topic.lets_out(&change(kind, None)), topic.elsewhere(&change(kind, None))),
            (true, Some("t").filter(|_| out)),
            "{kind:?}"
        );
        assert_eq!(drop.elsewhere(&change(kind, Some("r"))), None);
    }
}

/// Expressions are checked against the example: what the schema has, it must have, and nothing else.
#[test]
fn the_example_has_every_field_of_the_schema() {
    let schema: serde_json::Value = serde_json::from_str(include_str!("../../docs/finding.schema.json")).unwrap();
    fn same(schema: &serde_json::Value, root: &serde_json::Value, value: &serde_json::Value, path: &str) {
        let schema = match schema["$ref"].as_str() {
            Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap(),
            None => schema,
        };
        if let Some(properties) = schema["properties"].as_object() {
            let known: std::collections::BTreeSet<&String> = properties.keys().collect();
            let given: std::collections::BTreeSet<&String> = value.as_object().unwrap().keys().collect();
            assert_eq!(given, known, "{path}");
            properties.iter().for_each(|(name, of)| same(of, root, &value[name], &format!("{path}/{name}")));
        }
        if schema["items"].is_object() {
            same(&schema["items"], root, &value[0], &format!("{path}/0"));
        }
    }
    same(&schema, &schema, &example(), "");
    jsonschema::draft202012::new(&schema).unwrap().validate(&example()).unwrap();
}

proptest::proptest! {
    /// Whatever stands in a rules file, the answer is rules or mistakes; and a rule that was read never panics on a finding.
    #[test]
    fn no_rules_file_panics(key in "name|reason|owner|expires|domain_suffix|cidr|vendor|device|port|process|cel|x", text in ".{0,60}", number in proptest::prelude::any::<i64>()) {
        for value in [format!("{text:?}"), text.clone(), number.to_string(), format!("[{text:?}, {number}]"), format!("[{text:?}]")] {
            let rule = format!("[[suppress]]\nreason = \"r\"\nowner = \"o\"\nport = 443\n{key} = {value}\n");
            match Rules::default().and_file(&rule) {
                Ok(rules) => drop(marked(&rules, &Change { remote_ip: text.clone(), urls: vec![text.clone()], device_name: text.clone(), ..finding() })),
                Err(mistakes) => proptest::prop_assert!(!mistakes.is_empty()),
            }
        }
    }
}
