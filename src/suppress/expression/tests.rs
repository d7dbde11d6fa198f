//! Which expressions are put in force, which are refused and with which words, and that no text harms the process.

use super::*;
use crate::suppress::read::example;

fn read(text: &str) -> Result<Expression, String> {
    Expression::read(text, &example())
}

#[test]
fn expressions_ask_about_the_finding() {
    for (text, expected) in [
        ("true", true),
        ("finding.remote.port == 443", true),
        ("finding.remote.port in [80, 443] && finding.count < 10", true),
        ("finding.device.name.endsWith('.corp.example')", true),
        ("finding.remote.urls.all(u, u.endsWith('.acme.example'))", true),
        ("finding.remote.urls.exists(u, u == 'evil.example')", false),
        ("finding.vendors.exists(v, v.company == 'Acme Backup' && v.servers < 5)", true),
        ("has(finding.baseline.gap) ? finding.late : true", true),
        ("size(finding.remote.urls) == 1 && finding.severity != 'high'", true),
        ("finding.event.report_id > 0 && finding.prevalence.devices * 2 < 5", true),
        ("\"T1071\" in finding.attack", true),
        ("finding.remote.urls.filter(u, u.contains('acme')).size() == 1", true),
        ("finding.vendors.map(v, v.servers).size() + 1 == 2", true),
    ] {
        let expression = read(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let mut finding = example();
        finding["late"] = true.into();
        assert_eq!(expression.is_true(&finding), expected, "{text}");
    }
}

#[test]
fn what_can_not_be_so_is_refused_before_it_is_in_force() {
    for (text, word) in [
        ("", "can't be read"),
        ("finding.remote.port ==", "can't be read"),
        ("finding.remote.port", "is a number, expected true or false"),
        ("finding.remote.port == '443'", "compares a number with a text"),
        ("finding.remote.port in ['443']", "looks for a number among a text"),
        ("true || finding.nonsense == 1", "names the field \"nonsense\", which finding does not have"),
        ("true || finding.remote.prot == 1", "names the field \"prot\", which finding.remote does not have"),
        ("finding.vendors.exists(v, v.firm == 'x')", "names the field \"firm\", which v does not have"),
        ("has(finding.device.serial)", "names the field \"serial\""),
        ("device == 'x'", "names \"device\"; expected finding"),
        ("finding.count && true", "puts a number where true or false belongs"),
        ("finding.device.name.matches('.*')", "calls matches"),
        ("finding.count.endsWith('x')", "puts a number where a text belongs"),
        ("size(finding.count) == 1", "size of a number"),
        ("finding.device.name.name == 'x'", "names the field \"name\", which finding.device.name does not have"),
        ("finding.remote.urls.all(a, finding.remote.urls.all(b, a != b))", "a loop within a loop"),
        ("finding.count / 0 == 1", "fails on a finding"),
        ("{'a': 1} == {'a': 1}", "makes an object"),
        ("finding.remote.urls.map(u, u + u).size() == 1", "adds a text to a text"),
        ("finding.remote.urls.map(u, [u, u]).map(v, [v, v]).size() == 1", "loops over what it made itself"),
        ("finding.remote.urls[7] == 'x'", "fails on a finding"),
    ] {
        let error = read(text).map(|_| ()).unwrap_err();
        assert!(error.contains(word), "{text}: {error}");
    }
}

#[test]
fn hostile_texts_are_refused_quickly_and_without_recursion() {
    let deep = |open: &str, close: &str, n: usize| format!("{}true{}", open.repeat(n), close.repeat(n));
    for text in [
        deep("(", ")", 990),
        deep("!", "", 1500),
        format!("finding.count == {}1", "-".repeat(1500)),
        format!("finding.count == {}", "1+".repeat(900) + "1"),
        format!("[{}].size() == 1", "[".repeat(500) + &"]".repeat(500)),
        "true && ".repeat(240) + "true",
        "true ? true : ".repeat(140) + "true",
        "x".repeat(3000),
        "finding.remote.urls".to_owned() + &".map(u, u + u)".repeat(100) + ".size() == 1",
        "\u{0}\u{202e}".repeat(200),
        "(-9223372036854775807 - 1) / (finding.count - 3) == 0".to_owned(),
        "(-9223372036854775807 - 1) % (finding.count - 3) == 0".to_owned(),
        "-(-9223372036854775807 - finding.count + 1) == 0".to_owned(),
        "(-9223372036854775807 - 1) * (finding.count - 3) == 0".to_owned(),
        "finding.count - 3 - 9223372036854775807 - 9223372036854775807 == 0".to_owned(),
        "finding.count % 0 == 0".to_owned(),
        "finding.count / 0.0 == 0.0".to_owned(),
        "finding.remote.urls[-1] == 'x'".to_owned(),
        "finding.remote.urls[9223372036854775807] == 'x'".to_owned(),
        "finding.remote.urls['x'] == 'x'".to_owned(),
        "finding.remote.urls[1.5] == 'x'".to_owned(),
        "finding['device']['name'][0] == 'x'".to_owned(),
        "finding[finding] == 'x'".to_owned(),
        "finding == finding".to_owned(),
        "finding < finding".to_owned(),
        "[1] < [2]".to_owned(),
        "[[1]] == [['x']]".to_owned(),
        "size() == 1".to_owned(),
        "finding.remote.urls.size(1) == 1".to_owned(),
        "'a'.contains()".to_owned(),
        "contains('a')".to_owned(),
        "contains('a', 'b', 'c')".to_owned(),
        "has(finding)".to_owned(),
        "has()".to_owned(),
        "[].all(x, x)".to_owned(),
        "[1].exists_one(x, true)".to_owned(),
        "[1].map(x, x > 0, x).size() == 1".to_owned(),
        "finding.remote.urls.all(finding, finding == 'x')".to_owned(),
        "'\\ud800' == ''".to_owned(),
        "b'\\xff' == b''".to_owned(),
        "18446744073709551616 == 1".to_owned(),
        "1e999 > 0.0".to_owned(),
        "finding.?remote.?port == 1".to_owned(),
        "null == null".to_owned(),
    ] {
        // Some of these are good, if long; none may overflow the stack or hang.
        let _ = read(&text).map(|expression| expression.is_true(&example()));
    }
    assert!(read(&"x".repeat(3000)).unwrap_err().contains("at most 2000"));
}

#[test]
fn a_finding_that_lacks_the_field_is_not_matched() {
    let mut finding = example();
    finding["remote"].as_object_mut().unwrap().remove("port");
    assert!(!read("finding.remote.port == 443").unwrap().is_true(&finding));
    assert!(!read("finding.remote.port != 22").unwrap().is_true(&finding));
    assert!(read("!has(finding.remote.port)").unwrap().is_true(&finding));
}

proptest::proptest! {
    /// Neither reading nor evaluating panics, whatever the text.
    #[test]
    fn no_text_panics(text in "(finding|\\.|remote|urls|port|count|all|map|\\(|\\)|u|,|'x'|1|9223372036854775807|==|\\+|-|\\*|/|%|&&|\\|\\||!|\\[|\\]|\\?|:|has| ){0,24}") {
        if let Ok(expression) = read(&text) {
            let mut finding = example();
            finding["remote"] = serde_json::Value::Null;
            expression.is_true(&finding);
        }
    }
}
