//! Where pillion's verdict is not Envoy's, each with both answers. `docs/explanation/envoy.md` shows the same table;
//! `UPDATE_GOLDEN=1` writes it anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::istiod::Chain;
use super::policy::{Action, Field, OWN_NAMESPACE, Policy, Rule};
use super::stage::{self, Answered, Asked, Caller, Stage};
use crate::harness::program;

/// One request under one policy.
struct Difference {
    caller: Caller,
    /// Method and target; HTTP/1.1 unless it says otherwise.
    line: &'static str,
    /// The header fields; without `Host` the host is `shop.test`.
    fields: &'static [&'static str],
    policy: (Action, Part, &'static str, Values),
    envoy: u16,
    pillion: u16,
    /// What pillion does, and why.
    why: &'static str,
}

/// Where in a rule the field stands.
#[derive(Clone, Copy)]
enum Part {
    From,
    To,
    When,
}

#[derive(Clone, Copy)]
enum Values {
    Are(&'static [&'static str]),
    AreNot(&'static [&'static str]),
}

use Action::{Allow, Deny};
use Caller::{Frontend, Nobody, Payments};
use Part::{From, To, When};
use Values::{Are, AreNot};

const NO_ADMIN: (Action, Part, &str, Values) = (Deny, To, "paths", Are(&["/admin", "/admin/*"]));
const NO_SECRET: (Action, Part, &str, Values) = (Deny, To, "hosts", Are(&["secret.test"]));

const fn at(line: &'static str, envoy: u16, pillion: u16, why: &'static str) -> Difference {
    Difference { caller: Nobody, line, fields: &[], policy: NO_ADMIN, envoy, pillion, why }
}

const fn under(
    policy: (Action, Part, &'static str, Values),
    fields: &'static [&'static str],
    envoy: u16,
    pillion: u16,
    why: &'static str,
) -> Difference {
    Difference { caller: Nobody, line: "GET /", fields, policy, envoy, pillion, why }
}

const DIFFERENCES: &[Difference] = &[
    at(
        "GET /a//../admin",
        200,
        403,
        "Slashes are merged before `..` goes up. Envoy goes up first, over the empty segment, and passes `/a/admin` on.",
    ),
    Difference {
        policy: (Deny, To, "paths", Are(&["/"])),
        ..at("GET //", 200, 403, "Slashes alone are merged too. Envoy passes `//` on.")
    },
    at(
        "GET /public/..;/admin",
        403,
        400,
        "Servers understand `..;` differently: it is refused, whatever it leads to.",
    ),
    at(
        "GET /public/%2e%2e%3b/admin",
        200,
        400,
        "The same in another spelling. Envoy passes `/public/..%3b/admin` on.",
    ),
    at("GET /public/%zz", 200, 400, "A `%` without two hexadecimal digits is refused."),
    at("GET /public#top", 400, 200, "A request has no fragment. It is dropped, and the app gets `/public`."),
    at("GET /é", 400, 200, "A byte that no URL has is encoded: the app gets `/%C3%A9`."),
    Difference {
        policy: (Deny, To, "paths", Are(&["/a%3Ab"])),
        ..at("GET /a%3ab", 200, 403, "`%3a` and `%3A` are one character: hexadecimal digits become capitals.")
    },
    Difference {
        policy: (Deny, To, "paths", Are(&["/%5Ba%5D"])),
        ..at("GET /[a]", 200, 403, "What a path may not hold is encoded, brackets too.")
    },
    under(
        NO_SECRET,
        &["Host: secret.test:8080"],
        200,
        403,
        "A host in a policy is that host with any port; with a port it is with that port only.",
    ),
    under(
        (Allow, To, "hosts", Are(&["shop.test"])),
        &["Host: shop.test:8080"],
        403,
        200,
        "The same where it lets in.",
    ),
    under(
        NO_SECRET,
        &["Host: secret.test."],
        200,
        403,
        "A dot at the end names the same host, and is taken away.",
    ),
    under(
        (Deny, When, "request.headers[:authority]", Are(&["secret.test"])),
        &["Host: SECRET.test"],
        200,
        403,
        "Hosts have no case, under `:authority` neither. They are passed on in lower case.",
    ),
    under(NO_SECRET, &["Host: public.test", "Host: secret.test"], 200, 400, "Two hosts are refused."),
    Difference {
        line: "GET http://public.test/",
        ..under(NO_SECRET, &["Host: secret.test"], 200, 400, "So are a target and a `Host` that differ.")
    },
    under(NO_SECRET, &["Host: user@secret.test"], 200, 400, "A host with a user is none."),
    under(
        (Allow, When, "request.headers[X-Team]", Are(&["red"])),
        &["X-Team: red", "X-Team: blue"],
        200,
        403,
        "What lets in wants each line of a header as it must be; to Envoy one is enough.",
    ),
    under(
        (Deny, When, "request.headers[X-Team]", AreNot(&["red"])),
        &["X-Team: red", "X-Team: blue"],
        200,
        403,
        "What keeps out needs one line. (Both deny where one line is among the values of a DENY.)",
    ),
    under(
        (Deny, When, "request.headers[X-Team]", Are(&["red,blue"])),
        &["X-Team: red", "X-Team: blue"],
        200,
        403,
        "The lines in one count as well, as an app may read them.",
    ),
    Difference {
        caller: Payments,
        ..under(
            (Allow, From, "remoteIpBlocks", Are(&["10.1.0.1"])),
            &["X-Forwarded-For: 10.1.0.1"],
            200,
            403,
            "`X-Forwarded-For` is believed of `inbound.trustedProxies` alone; a sidecar of Istio believes anybody.",
        )
    },
    Difference {
        caller: Frontend,
        ..under(
            (Allow, From, "namespaces", Are(&["*a"])),
            &[],
            200,
            403,
            "`namespaces` is about the namespace, here `default`. In Istio's pattern the `sa` behind it matches as well, \
             so that a value like `*a` matches every namespace.",
        )
    },
    Difference {
        caller: Frontend,
        ..under(
            (Deny, When, "connection.sni", Are(&["API.shop.test"])),
            &[],
            200,
            403,
            "Server names have no case.",
        )
    },
    Difference {
        line: "GET / HTTP/1.0",
        ..at("", 426, 200, "HTTP/1.0 is served. Without a host, the address dialled stands for it.")
    },
    at("OPTIONS *", 404, 200, "A request to the server as a whole has the path `*`."),
    at("CONNECT shop.test:80", 404, 400, "A tunnel would carry requests that nobody judges."),
    Difference {
        line: "POST /",
        ..under(
            NO_ADMIN,
            &["Transfer-Encoding: chunked", "Content-Length: 5"],
            400,
            200,
            "The length does not count, and does not reach the app (RFC 9112, 6.3).",
        )
    },
    under(
        NO_ADMIN,
        &["Connection: upgrade", "Upgrade: echo"],
        403,
        200,
        "Any protocol may be changed to but HTTP and TLS, judged as the request that asks for it; in Istio `websocket` only.",
    ),
];

impl Difference {
    fn policy(&self, name: &str) -> Policy {
        let (action, part, field, values) = self.policy;
        let own = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        let (values, not_values) = match values {
            Are(values) => (own(values), Vec::new()),
            AreNot(values) => (Vec::new(), own(values)),
        };
        let field = Field { name: field, values, not_values };
        let rule = match part {
            From => Rule { from: vec![vec![field]], ..Rule::default() },
            To => Rule { to: vec![vec![field]], ..Rule::default() },
            When => Rule { when: vec![field], ..Rule::default() },
        };
        let name = name.to_owned();
        Policy { name, namespace: OWN_NAMESPACE, app: None, action, dry_run: false, rules: vec![rule] }
    }

    fn bytes(&self) -> Vec<u8> {
        let Self { line, fields, .. } = self;
        let version = if line.contains(" HTTP/") { "" } else { " HTTP/1.1" };
        let has_host = fields.iter().any(|field| field.starts_with("Host:"));
        let host = if has_host { "" } else { "Host: shop.test\r\n" };
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let body = if fields.contains("chunked") { "0\r\n\r\n" } else { "" };
        format!("{line}{version}\r\n{host}{fields}\r\n{body}").into_bytes()
    }

    fn asked(&self) -> Asked {
        let sni = Some("api.shop.test").filter(|_| self.caller != Nobody);
        Asked { caller: self.caller, source: "127.0.0.1", port: 0, sni, request: None }
    }

    /// A line of the page's table.
    fn row(&self) -> String {
        let (action, _, field, values) = self.policy;
        let (word, values) = match values {
            Are(values) => ("", values),
            AreNot(values) => ("not ", values),
        };
        let list =
            |texts: &[&str]| texts.iter().map(|text| format!("`{text}`")).collect::<Vec<_>>().join(", ");
        let asked: Vec<&str> = [self.line].into_iter().chain(self.fields.iter().copied()).collect();
        let who = match self.caller {
            Frontend => " by `default/frontend`",
            Payments => " by `production/payments`",
            Caller::FrontendEu | Nobody => "",
        };
        format!(
            "| {}{who} | {} `{field}` {word}{} | {} | {} | {} |",
            list(&asked),
            action.word(),
            list(values),
            self.envoy,
            self.pillion,
            self.why
        )
    }
}

#[test]
fn each_difference_is_what_the_page_says() {
    let Some(envoy) = program("PILLION_TEST_ENVOY", "envoy") else { return };
    let numbered =
        |(number, difference): (usize, &Difference)| vec![difference.policy(&format!("p{number}"))];
    let sets: Vec<Vec<Policy>> = DIFFERENCES.iter().enumerate().map(numbered).collect();
    let stage = Stage::new(&envoy, stage::http_apps(), Chain::Http, &sets);
    let wrong = stage.with_each(&sets, |set, pillion| {
        let difference = &DIFFERENCES[set];
        let (asked, bytes) = (difference.asked(), difference.bytes());
        let by_envoy = status(&stage.ask_envoy(set, &asked, &bytes));
        let by_pillion = status(&stage.ask_pillion(pillion, &asked, &bytes));
        let is_right = (by_envoy, by_pillion) == (difference.envoy, difference.pillion);
        if is_right {
            vec![]
        } else {
            vec![format!("{}\nEnvoy {by_envoy}, pillion {by_pillion}", difference.row())]
        }
    });
    assert_eq!(wrong, [""; 0]);
}

fn status(answered: &Answered) -> u16 {
    match answered {
        Answered::Status(status, _) => *status,
        Answered::Nothing => 0,
    }
}

const BEGIN: &str = "<!-- Written by cli/tests/foreign/rbac/differences.rs: change it there. -->\n";
const END: &str = "<!-- So far. -->\n";

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/explanation/envoy.md")
}

#[test]
fn the_page_shows_each_difference() {
    let mut table =
        "| asked | under | Envoy | pillion | what pillion does |\n|---|---|---|---|---|\n".to_owned();
    for difference in DIFFERENCES {
        writeln!(table, "{}", difference.row()).unwrap();
    }
    let text = std::fs::read_to_string(page()).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (written, behind) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(page(), format!("{before}{BEGIN}{table}{END}{behind}")).unwrap();
        return;
    }
    assert_eq!(written, table, "UPDATE_GOLDEN=1 writes it anew");
}
