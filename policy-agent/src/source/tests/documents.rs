//! Files to documents.

use super::super::document::{Document, Format, State, documents};
use super::super::yaml::split;
use super::*;

fn chunks(text: &str) -> Vec<(&str, u64)> {
    split(text).into_iter().map(|chunk| (chunk.text, chunk.line)).collect()
}

#[test]
fn streams_are_cut_at_marker_lines_only() {
    let table: &[(&str, &[(&str, u64)])] = &[
        ("", &[]),
        ("# nothing\n\n---\n# still nothing\n---\n...\n", &[]),
        ("a: 1", &[("a: 1", 0)]),
        ("a: 1\n---\nb: 2\n", &[("a: 1\n", 0), ("---\nb: 2\n", 1)]),
        ("---\na: 1\n---\n\n---\nb: 2", &[("---\na: 1\n", 0), ("---\nb: 2", 4)]),
        ("# head\n%YAML 1.2\n---\na: 1\n", &[("# head\n%YAML 1.2\n---\na: 1\n", 0)]),
        ("a: 1\n...\n%YAML 1.2\n---\nb: 2\n", &[("a: 1\n", 0), ("%YAML 1.2\n---\nb: 2\n", 2)]),
        ("--- {a: 1}\n--- # comment\nb: 2\n", &[("--- {a: 1}\n", 0), ("--- # comment\nb: 2\n", 1)]),
        ("---\r\na: 1\r\n---\r\nb: 2\r\n", &[("---\r\na: 1\r\n", 0), ("---\r\nb: 2\r\n", 2)]),
        ("a: |\n  ---\n  x\n ---\nb: '---'\n", &[("a: |\n  ---\n  x\n ---\nb: '---'\n", 0)]),
        ("---a\n----\n....\n", &[("---a\n----\n....\n", 0)]),
    ];
    for (text, expected) in table {
        assert_eq!(chunks(text), *expected, "{text:?}");
    }
}

fn states(format: Format, text: &str) -> Vec<(String, State)> {
    let (documents, _) = documents("f", format, text);
    documents.into_iter().map(|Document { value, state, .. }| (value.to_string(), state)).collect()
}

#[test]
fn scalars_are_what_yaml_1_2_says() {
    let text = "[y, no, on, true, ~, 012, 0x10, 1_000, 2001-01-01, 1e3, 12:30, '1', !!str 1, .5, a]";
    let expected = r#"["y","no","on",true,null,12.0,16,1000,"2001-01-01",1000.0,"12:30","1","1",0.5,"a"]"#;
    assert_eq!(states(Format::Yaml, text), [(expected.to_owned(), State::Whole)]);
}

#[test]
fn anchors_and_merge_keys() {
    let text = "base: &base {a: 1, b: 2}\nx: *base\ny: {<<: *base, b: 3}\n";
    let expected = r#"{"base":{"a":1,"b":2},"x":{"a":1,"b":2},"y":{"a":1,"b":3}}"#;
    assert_eq!(states(Format::Yaml, text), [(expected.to_owned(), State::Whole)]);
}

#[test]
fn what_is_left_of_broken_documents() {
    let table = [
        (Format::Yaml, "a: 1\nb:\n  c: 2\n  c: 3\n", r#"{"a":1,"b":{"c":3}}"#, State::Ambiguous),
        (Format::Yaml, "a: 1\nb: [x, y\nc: 3\n", r#"{"a":1,"b":["x",null]}"#, State::Beginning),
        (Format::Yaml, "a: {b: 1}\nc: \"open\n", r#"{"a":{"b":1},"c":null}"#, State::Beginning),
        (Format::Yaml, "a: 1\n\tb: 2\n", r#"{"a":null}"#, State::Beginning),
        (Format::Yaml, "a: 1\nb: *nothing\n", r#"{"a":1,"b":null}"#, State::Beginning),
        (Format::Yaml, "a: 1\nb: .nan\n", r#"{"a":1,"b":null}"#, State::Beginning),
        (Format::Json, r#"{"a": 1, "b": {"c": 2, "c": 3}}"#, r#"{"a":1,"b":{"c":3}}"#, State::Ambiguous),
        (Format::Json, r#"{"a": 1, "b": [2, {"c": "d"#, r#"{"a":1,"b":[2,{"c":null}]}"#, State::Beginning),
        (Format::Json, "nonsense", "null", State::Beginning),
    ];
    for (format, text, value, state) in table {
        let found = states(format, text);
        assert_eq!(found.len(), 1, "{text:?}");
        assert_eq!(found[0].1, state, "{text:?}: {found:?}");
        assert_eq!(found[0].0, value, "{text:?}");
    }
}

#[test]
fn places_of_syntax_errors_are_the_files() {
    let pod = pod_text("p", "10.0.0.1");
    let table = [
        (
            "a.yaml",
            format!("{pod}---\nkind: Pod\nkind: Pod\n"),
            "a.yaml#2: line 7, column 1: duplicate mapping key `kind` is not allowed here",
        ),
        (
            "a.json",
            "{}\n{\"a\": 1,\n \"a\": 2}".to_owned(),
            "a.json#2: line 3, column 4: duplicate key \"a\"",
        ),
        ("a.json", "{}\n{\"a\":\n".to_owned(), "a.json#2: line 3, column 0: EOF while parsing a value"),
    ];
    for (name, text, expected) in table {
        let found = problems(name, &text);
        assert!(found.iter().any(|text| text.starts_with(expected)), "{expected}: {found:?}");
    }
}

#[test]
fn a_broken_document_spoils_no_other() {
    let text = format!("{}---\na: [\n---\n{}", pod_text("p", "10.0.0.1"), pod_text("q", "10.0.0.2"));
    let mut store = Store::default();
    update(&mut store, &[("a.yaml", &text)]);
    assert_eq!(store.cluster().pods.names().cloned().collect::<Vec<_>>(), [dev("p"), dev("q")]);
    assert_eq!(store.problems().len(), 1);
    assert_eq!(store.problems()[0].source, "a.yaml#2");
}

#[test]
fn texts_of_every_make() {
    let pod = pod_text("p", "10.0.0.1");
    let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"dev"}}"#;
    let table = [
        ("a.yaml", format!("\u{feff}{pod}")),
        ("a.yaml", pod.replace('\n', "\r\n")),
        ("a.yml", json.to_owned()),
        ("a.json", format!("\u{feff}{json}\n\n")),
    ];
    for (name, text) in table {
        let mut store = Store::default();
        update(&mut store, &[(name, &text)]);
        assert_eq!(store.problems(), [], "{text:?}");
        assert!(store.cluster().pods.contains(&dev("p")), "{text:?}");
    }
    let mut store = Store::default();
    store.update(FolderRead { files: vec![read_text("a.yaml", vec![b'a', 0xff])], problem: None });
    assert_eq!(texts(store.problems()), ["a.yaml: can't be read: is not UTF-8 text (byte 1)"]);
}

#[test]
fn big_policies_are_read() {
    let rule = "- from: [{ipBlock: {cidr: 10.0.0.0/8}}, {podSelector: {matchLabels: {app: web}}}]\n  ports: [{port: 80}]\n";
    let text = policy_text("x", &format!("podSelector: {{}}\ningress:\n{}", rule.repeat(10_000)));
    assert_eq!(the_policy(&text).ingress.map(|rules| rules.len()), Some(10_000));
    let peers = "  - ipBlock: {cidr: 10.0.0.0/8}\n".repeat(100_000);
    let text = policy_text("x", &format!("ingress:\n- from:\n{peers}"));
    let rules = the_policy(&text).ingress.expect("rules");
    assert_eq!(rules[0].peers.as_ref().map(Vec::len), Some(100_000));
}

#[test]
fn alias_bombs_are_refused() {
    let laughs: String =
        (1..12).map(|n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "))).collect();
    // Each anchor is one level deeper than the last: what nests must not reach the end of the stack.
    let deep: String = (1..100_000).map(|n| format!("- &a{n} [[[[*a{}]]]]\n", n - 1)).collect();
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let blocks: String = (0..3000).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
    let table = [
        ("laughs", format!("a0: &a0 lol\n{laughs}")),
        ("deep", format!("- &a0 x\n{deep}")),
        ("nested", nested),
        ("blocks", blocks),
        ("recursive", "a: &a [*a]".to_owned()),
    ];
    for (name, text) in table {
        assert_eq!(problems("a.yaml", &text).len(), 1, "{name}");
        let json = text.replace("&a", "");
        assert_eq!(problems("a.json", &json).len(), 1, "{name} as JSON");
    }
}

/// As values they would take a gigabyte.
#[test]
fn objects_larger_than_an_api_server_stores() {
    let blocks = "{\"ipBlock\":{\"cidr\":\"10.0.0.1/32\"}},".repeat(300_000);
    let policy = format!(
        "{{\"apiVersion\":\"networking.k8s.io/v1\",\"kind\":\"NetworkPolicy\",\"metadata\":{{\"namespace\":\"dev\",\"name\":\"p\"}},\
         \"spec\":{{\"podSelector\":{{}},\"ingress\":[{{\"from\":[{}]}}]}}}}",
        blocks.trim_end_matches(',')
    );
    for name in ["p.json", "p.yaml"] {
        let read = read_text(name, policy.clone().into_bytes());
        let told: Vec<String> = read.problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [format!("{name}: NetworkPolicy dev/p is larger than 8 MiB, which no API server stores")]
        );
        let [found] = &read.found[..] else { panic!("{:?}", read.found) };
        assert_eq!(found.key.id, dev("p"));
        assert!(found.content.is_err() && read.unknown, "closed, or as it was before");
    }
}
