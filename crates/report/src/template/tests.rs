//! Templates as used in the wild, and refusals.

use serde_json::{Value, json};

use super::Template;

fn sample() -> Value {
    json!({
        "Ready": true,
        "Version": "2.8.1",
        "IPAM": null,
        "Router": {
            "Name": "00:00:00:00:00:01",
            "Peers": [
                {"Name": "a", "NickName": "h1", "Connections": null},
                {"Name": "b", "NickName": "h2", "Connections": [{"Name": "a", "Established": true}]},
            ],
            "Targets": null,
            "TrustedSubnets": [],
            "Connections": [{"State": "established", "Attrs": {"mtu": 1410, "name": "sleeve"}}],
        },
    })
}

fn render(template: &str) -> String {
    Template::parse(template)
        .expect(template)
        .render(&sample())
        .expect(template)
}

#[test]
fn templates_used_in_the_wild_render_as_in_go() {
    let cases = [
        ("{{.Version}}", "2.8.1"),
        ("{{.Router.Name}}", "00:00:00:00:00:01"),
        ("{{len .Router.Peers}}", "2"),
        ("{{len .Router.Targets}}", "0"),
        ("{{.Router.Targets}}", "[]"),
        (
            "{{range .Router.Peers}}{{.NickName}}{{\"\\n\"}}{{end}}",
            "h1\nh2\n",
        ),
        ("{{range .Router.Targets}}x{{else}}none{{end}}", "none"),
        (
            "{{range $i, $p := .Router.Peers}}{{if $i}},{{end}}{{$p.Name}}{{end}}",
            "a,b",
        ),
        ("{{if .IPAM}}on{{else}}off{{end}}", "off"),
        (
            "{{if not .Ready}}x{{else if eq .Version \"2.8.1\"}}y{{end}}",
            "y",
        ),
        (
            "{{with .Router}}{{.Name}} {{$.Version}}{{end}}",
            "00:00:00:00:00:01 2.8.1",
        ),
        (
            "{{json .Router.TrustedSubnets}}{{json .Router.Targets}}",
            "[]null",
        ),
        (
            "{{json (index .Router.Connections 0).Attrs}}",
            "{\"mtu\":1410,\"name\":\"sleeve\"}",
        ),
        (
            "{{(index .Router.Connections 0).Attrs.encrypted}}",
            "<no value>",
        ),
        ("{{index .Router.Connections 0 \"Attrs\" \"mtu\"}}", "1410"),
        (
            "{{printf \"%-4s|%4d|%v|%q|%%\" \"ab\" 7 true \"x\"}}",
            "ab  |   7|true|\"x\"|%",
        ),
        ("{{.Router.Name | printf \"%s!\" | len}}", "18"),
        (
            "{{and .Ready .Version}} {{or .IPAM \"none\"}}",
            "2.8.1 none",
        ),
        ("{{and (eq 1 1) (ne 1 2)}}{{lt 1 2}}", "truetrue"),
        ("a  {{- /* note */ -}}  b {{- 1 }} {{ 2 -}} c", "ab1 2c"),
        (
            "{{$x := 1}}{{range .Router.Peers}}{{$x = .Name}}{{end}}{{$x}}",
            "b",
        ),
        ("{{`raw {{ text`}}", "raw {{ text"),
        (
            "{{range .Router.Connections}}{{.State}} {{.Attrs}}{{end}}",
            "established map[mtu:1410 name:sleeve]",
        ),
        (
            "{{range $k, $v := (index .Router.Connections 0).Attrs}}{{$k}}={{$v}};{{end}}",
            "mtu=1410;name=sleeve;",
        ),
        ("{{print 1 2 \"x\"}}{{println 3}}", "1 2x3\n"),
        ("plain", "plain"),
    ];
    for (template, expected) in cases {
        assert_eq!(render(template), expected, "{template}");
    }
}

#[test]
fn what_is_not_understood_is_a_parse_error() {
    for template in [
        "{{",
        "{{.Foo",
        "{{end}}",
        "{{if .A}}",
        "{{if .A}}{{else}}{{else}}{{end}}",
        "{{foo .A}}",
        "{{define \"x\"}}{{end}}",
        "{{template \"x\"}}",
        "{{.A .B}}",
        "{{len (.A}}",
        "{{\"abc}}",
        "{{}}",
        "{{1 | 2}}",
        "{{/* x }}",
        "{{len \"\\q\"}}",
        "{{.A | }}",
    ] {
        assert!(Template::parse(template).is_err(), "{template}");
    }
    let deep = format!("{{{{{}1{}}}}}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(Template::parse(&deep).is_err());
    let nested = "{{if 1}}".repeat(10_000);
    assert!(Template::parse(&nested).is_err());
}

#[test]
fn what_does_not_fit_the_value_is_an_execution_error() {
    for template in [
        "{{.Nothing}}",
        "{{.IPAM.Range}}",
        "{{.Version.Major}}",
        "{{index .Router.Peers 7}}",
        "{{len 3}}",
        "{{range .Version}}{{end}}",
        "{{eq .Version 1}}",
        "{{$y}}",
        "{{range .Router.Peers}}{{.Bogus}}{{end}}",
    ] {
        let parsed = Template::parse(template).expect(template);
        assert!(parsed.render(&sample()).is_err(), "{template}");
    }
}

#[test]
fn a_template_that_goes_round_for_ever_or_doubles_a_text_is_stopped() {
    let open = "{{range $.Router.Peers}}".repeat(60);
    let close = "{{end}}".repeat(60);
    let doubling = format!(
        "{{{{$x := \"0123456789\"}}}}{}",
        "{{$x = print $x $x}}".repeat(60)
    );
    let copying = format!(
        "{{{{$x := \"0123456789\"}}}}{}{}",
        "{{$x = print $x $x}}".repeat(20),
        "{{$y := $x}}".repeat(60)
    );
    for template in [format!("{open}{close}"), doubling, copying] {
        let parsed = Template::parse(&template).expect("a template");
        let error = parsed.render(&sample()).expect_err("stopped");
        assert_eq!(error.to_string(), "template does too much");
    }
}
