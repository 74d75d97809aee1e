//! The page from above: what it comes to, what was found, what happened, what is missing.

use std::fmt::Write;

use super::{
    Input,
    html::{Page, cut},
    picture,
    story::{Story, Tone},
    words,
};

/// Rows of the timeline; a bundle has the rest.
const MOST_ROWS: usize = 600;
/// Rows of each table of outcomes.
const MOST_OUTCOMES: usize = 40;
/// Characters of a text in a row.
const LONGEST: usize = 400;

pub(super) fn all(page: &Page, input: &Input<'_>, story: &Story) -> String {
    let mut html = String::new();
    for section in [
        head(page, input, story),
        numbers(story),
        grades(page, input),
        pictures(page, story),
        outcomes(page, story),
        contract(page, input, story),
        timeline(page, story),
        absent(page, story),
        origin(page, input, story),
    ] {
        html.push_str(&section);
    }
    html
}

fn section(name: &str, title: &str, inner: &str) -> String {
    if inner.is_empty() {
        return String::new();
    }
    format!("<section id=\"{name}\">\n<h2>{title}</h2>\n{inner}</section>\n")
}

fn moment(at: Option<claw::time::Instant>) -> String {
    at.map_or_else(|| "?".into(), |at| at.format().get(..19).unwrap_or_default().replace('T', " "))
}

fn head(page: &Page, input: &Input<'_>, story: &Story) -> String {
    let (class, verdict, why) = match &input.whole.broken {
        None if input.whole.verdicts.is_empty() => ("bad", "Nothing to verify", "there is no bundle".to_owned()),
        None => ("good", "Verified", "nothing in it was changed since it was signed".to_owned()),
        Some(broken) => ("bad", "Not valid", format!("bundle {}: {}", broken.bundle + 1, broken.fault)),
    };
    let job = if story.job.is_empty() { &story.run_id } else { &story.job };
    let lasted = story.started_at.zip(story.ended_at).map_or_else(
        || if story.ended_at.is_none() { "still running when this was written".into() } else { String::new() },
        |(from, to)| words::duration(to.0.saturating_sub(from.0)),
    );
    let mode = match story.mode.as_str() {
        "enforce" => "held to its contract",
        "observe" => "only observed",
        _ => "",
    };
    format!(
        "<header>\n<p class=\"brand\">ClawGuard \u{b7} what a job did</p>\n<h1><bdi>{}</bdi></h1>\n\
         <p class=\"lead\">Agent <bdi>{}</bdi>, {mode} \u{b7} {} to {} UTC \u{b7} {lasted}</p>\n\
         <p class=\"verdict {class}\"><strong>{verdict}</strong> <span>{}</span></p>\n</header>\n",
        page.text(&cut(job, 120)),
        page.text(&cut(&story.agent, 120)),
        moment(story.started_at),
        moment(story.ended_at),
        page.text(&cut(&why, LONGEST)),
    )
}

/// What happened how often.
fn numbers(story: &Story) -> String {
    const TILES: [(&str, &[&str], &str); 6] = [
        ("tool calls", &["tool_calls"], "allowed"),
        ("model calls", &["model_calls"], "allowed"),
        ("calls refused", &["tool_denied", "model_denied"], "refused"),
        ("calls held", &["tool_held"], "held"),
        ("flips of the switch", &["flips"], "killed"),
        ("attempts to go around", &["alerts"], "alert"),
    ];
    if story.counts.is_empty() {
        return String::new();
    }
    let mut tiles = String::new();
    for (label, names, tone) in TILES {
        let count: u64 = names.iter().filter_map(|name| story.counts.get(*name)).sum();
        let tone = if count == 0 { "none" } else { tone };
        let _ = writeln!(tiles, "<li class=\"{tone}\"><b>{count}</b> <span>{label}</span></li>");
    }
    format!("<ul class=\"tiles\">\n{tiles}</ul>\n")
}

/// What each claim is worth.
fn grades(page: &Page, input: &Input<'_>) -> String {
    let mut rows = String::new();
    // Of several parts, the claims of the last are about the run as much as any other's.
    for claim in input.whole.verdicts.last().map(|verdict| &verdict.claims[..]).unwrap_or_default() {
        let grade = claim.grade.name();
        let _ = writeln!(
            rows,
            "<tr><th scope=\"row\">{}</th><td><span class=\"grade {grade}\">{grade}</span></td><td>{}</td></tr>",
            page.text(&claim.about.replace('_', " ")),
            page.text(&cut(&claim.says, LONGEST)),
        );
    }
    if !rows.is_empty() {
        rows = format!("<table class=\"claims\"><tbody>\n{rows}</tbody></table>\n");
    }
    let flags = input.whole.verdicts.iter().flat_map(|verdict| &verdict.risk_flags);
    let flags: std::collections::BTreeSet<&String> = flags.collect();
    if !flags.is_empty() {
        let flags: Vec<String> = flags.into_iter().map(|flag| format!("<code>{}</code>", page.text(flag))).collect();
        let _ = writeln!(rows, "<p class=\"note\">Worth knowing: {}</p>", flags.join(" "));
    }
    section("evidence", "What the evidence is worth", &rows)
}

fn pictures(page: &Page, story: &Story) -> String {
    let mut inner = format!("<figure>\n{}</figure>\n", picture::time(page, story));
    inner.push_str(
        "<p class=\"legend\"><span class=\"allowed\">let through</span> <span class=\"held\">held</span> \
         <span class=\"refused\">refused</span> <span class=\"killed\">killed</span> <span class=\"alert\">alert</span></p>\n",
    );
    let mut html = section("time", "When", &inner);
    let flows = if story.traffic.is_empty() { counted(story) } else { story.traffic.clone() };
    if !flows.is_empty() {
        html.push_str(&section(
            "traffic",
            "Traffic by group",
            &format!("<figure>\n{}</figure>\n", picture::traffic(page, &flows)),
        ));
    }
    html
}

/// Traffic as the bundle alone counts it.
fn counted(story: &Story) -> std::collections::BTreeMap<String, super::story::Flow> {
    let count = |name: &str| story.counts.get(name).copied().unwrap_or(0);
    [
        ("tools", count("tool_calls"), count("tool_denied") + count("tool_held")),
        ("models", count("model_calls"), count("model_denied")),
        ("network", count("egress_allowed") + count("egress_observed"), count("egress_denied")),
    ]
    .into_iter()
    .filter(|(_, passed, refused)| passed + refused > 0)
    .map(|(name, passed, refused)| (name.to_owned(), super::story::Flow { passed, refused }))
    .collect()
}

/// What was let through, held, refused, killed and tried.
fn outcomes(page: &Page, story: &Story) -> String {
    let mut inner = String::new();
    for (tone, title) in [
        (Tone::Allowed, "Let through"),
        (Tone::Held, "Held"),
        (Tone::Refused, "Refused"),
        (Tone::Killed, "Killed"),
        (Tone::Alert, "Tried to go around"),
    ] {
        let mut rows: Vec<_> = story.outcomes.iter().filter(|((of, _), _)| *of == tone).collect();
        if rows.is_empty() {
            continue;
        }
        rows.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        let more = rows.len().saturating_sub(MOST_OUTCOMES);
        let _ = writeln!(inner, "<div class=\"outcome\">\n<h3 class=\"{0}\">{title}</h3>\n<table><tbody>", tone.name());
        for ((_, name), (count, why)) in rows.into_iter().take(MOST_OUTCOMES) {
            let _ = writeln!(
                inner,
                "<tr><td class=\"count\">{count}</td><td><bdi>{}</bdi></td><td class=\"why\"><bdi>{}</bdi></td></tr>",
                page.text(&cut(name, 120)),
                page.text(&cut(why, 160)),
            );
        }
        inner.push_str("</tbody></table>\n");
        if more > 0 {
            let _ = writeln!(inner, "<p class=\"note\">and {more} more, less often</p>");
        }
        inner.push_str("</div>\n");
    }
    if inner.is_empty() && story.known == 0 {
        inner = "<p class=\"note\">The bundle has hashes and counts. With the job's audit records beside it \
                 (<code>--audit</code>) this page says what was called and why it was refused.</p>\n"
            .into();
    }
    section(
        "outcomes",
        "What was let through, refused, held and killed",
        &format!("<div class=\"outcomes\">\n{inner}</div>\n"),
    )
}

fn contract(page: &Page, input: &Input<'_>, story: &Story) -> String {
    let mut inner = String::new();
    if !story.contracts.is_empty() {
        inner.push_str("<ol class=\"contracts\">\n");
        for hash in &story.contracts {
            let _ = writeln!(inner, "<li><code>{}</code></li>", page.text(&cut(hash, 64)));
        }
        inner.push_str("</ol>\n");
    }
    if !input.changes.is_empty() {
        inner.push_str("<h3>From the first to the last</h3>\n<table class=\"changes\"><tbody>\n");
        for change in input.changes {
            let class = match change.kind.as_str() {
                "widens" => "refused",
                "narrows" => "allowed",
                _ => "plain",
            };
            let _ = writeln!(
                inner,
                "<tr><td><span class=\"pill {class}\">{}</span></td><td><bdi>{}</bdi></td></tr>",
                page.text(&cut(&change.kind, 20)),
                page.text(&cut(&change.text, LONGEST)),
            );
        }
        inner.push_str("</tbody></table>\n");
    }
    section("contract", if story.contracts.len() > 1 { "Contracts" } else { "Contract" }, &inner)
}

fn timeline(page: &Page, story: &Story) -> String {
    let mut inner = String::from("<ol class=\"timeline\">\n");
    let mut day = String::new();
    for event in story.events.iter().take(MOST_ROWS) {
        let at = event.at.format();
        let (date, time) = (at.get(..10).unwrap_or_default(), at.get(11..19).unwrap_or_default());
        if day != date {
            let _ = writeln!(inner, "<li class=\"day\">{date}</li>");
            day = date.to_owned();
        }
        let times = if event.times > 1 {
            format!(" <span class=\"times\">\u{d7} {}</span>", event.times)
        } else {
            String::new()
        };
        let detail = if event.detail.is_empty() {
            String::new()
        } else {
            format!("<p><bdi>{}</bdi></p>", page.text(&cut(&event.detail, LONGEST)))
        };
        let _ = writeln!(
            inner,
            "<li class=\"{}\"><time>{time}</time><div><strong><bdi>{}</bdi></strong>{times}{detail}</div></li>",
            event.tone.name(),
            page.text(&cut(&event.title, 200)),
        );
    }
    inner.push_str("</ol>\n");
    let more = story.events.len().saturating_sub(MOST_ROWS);
    if more > 0 {
        let _ = writeln!(inner, "<p class=\"note\">and {more} more; the bundle has them all</p>");
    }
    if story.forged > 0 {
        let _ = writeln!(
            inner,
            "<p class=\"note bad\">{} audit records are not those that the signed events name: nothing of them is told here.</p>",
            story.forged
        );
    }
    if story.total == 0 {
        return String::new();
    }
    section("timeline", "Timeline", &inner)
}

fn absent(page: &Page, story: &Story) -> String {
    let mut inner = String::new();
    for (what, why) in &story.absent {
        let _ = writeln!(
            inner,
            "<dt><bdi>{}</bdi></dt><dd><bdi>{}</bdi></dd>",
            page.text(&cut(what, LONGEST)),
            page.text(&cut(why, LONGEST))
        );
    }
    let inner = if inner.is_empty() { inner } else { format!("<dl>\n{inner}</dl>\n") };
    section("absent", "What is not in the evidence", &inner)
}

/// Where it comes from, and how to look again.
fn origin(page: &Page, input: &Input<'_>, story: &Story) -> String {
    let mut inner = String::from("<table class=\"origin\"><tbody>\n");
    let mut row = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(
                inner,
                "<tr><th scope=\"row\">{name}</th><td><code>{}</code></td></tr>",
                page.text(&cut(value, 200))
            );
        }
    };
    row("run", &story.run_id);
    row("signed by", &story.agent_did);
    row("sentinel", &story.sentinel_did);
    for (i, part) in story.parts.iter().enumerate() {
        let name = if story.parts.len() > 1 { format!("part {}", i + 1) } else { "bundle".into() };
        row(&name, &format!("{} \u{b7} {} events, {} gateway receipts", part.hash, part.events, part.receipts));
    }
    inner.push_str("</tbody></table>\n");
    let _ = writeln!(
        inner,
        "<p class=\"note\">{} of {} events have their audit record beside them, with the hash that was signed. \
         Look again with <code>clawguard bundle verify</code>. Made by ClawGuard {} on {} UTC.</p>",
        story.known,
        story.total,
        page.text(input.version),
        moment(Some(input.made_at)),
    );
    section("origin", "Where this comes from", &inner)
}
