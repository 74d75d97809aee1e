//! Pictures, drawn by hand: when things happened, and where traffic went.

use std::{collections::BTreeMap, fmt::Write};

use super::{
    html::Page,
    story::{Flow, Story, Tone},
};

/// Lanes of the picture of time, from above.
const LANES: [(&str, &[&str]); 5] = [
    ("job", &["run_start", "run_end", "policy_in_force", "policy_expired", "token"]),
    ("models", &["llm_call", "llm_denied", "llm_result"]),
    ("tools", &["tool_call", "tool_denied", "tool_held", "approval", "tool_pin"]),
    ("traffic", &["egress_decisions", "bypass_alert"]),
    (
        "switch",
        &["tool_group_killed", "tool_group_restored", "mode_changed", "flip_unproven", "host_alert", "fence_removed"],
    ),
];

const WIDTH: f64 = 960.0;
const LEFT: f64 = 84.0;
const LANE: f64 = 30.0;

/// The run from its first event to its last, a lane for each kind of thing.
pub(super) fn time(page: &Page, story: &Story) -> String {
    let (Some(first), Some(end)) = (story.events.first(), story.events.last()) else { return String::new() };
    let span = end.at.0.saturating_sub(first.at.0).max(1) as f64;
    let height = LANE * LANES.len() as f64 + 26.0;
    let mut svg = format!(
        "<svg class=\"picture\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"When things happened\">\n"
    );
    for (i, (name, types)) in LANES.iter().enumerate() {
        let middle = LANE * i as f64 + LANE / 2.0;
        let _ = writeln!(svg, "<text class=\"lane\" x=\"0\" y=\"{}\">{name}</text>", middle + 4.0);
        let _ = writeln!(svg, "<line class=\"rail\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{middle}\" y2=\"{middle}\"/>");
        let mut last: BTreeMap<Tone, f64> = BTreeMap::new();
        for event in story.events.iter().filter(|event| types.contains(&&*event.event_type)) {
            let x = LEFT + 8.0 + (event.at.0.saturating_sub(first.at.0) as f64 / span) * (WIDTH - LEFT - 16.0);
            // What would lie under the mark before is not drawn: a run may have a million events.
            if last.get(&event.tone).is_some_and(|before| (x - before).abs() < 1.0) {
                continue;
            }
            last.insert(event.tone, x);
            let tone = event.tone.name();
            let title = page.text(&event.title);
            // A form for each tone, for those who do not tell colours apart.
            let mark = match event.tone {
                Tone::Plain | Tone::Allowed => {
                    format!("<circle class=\"{tone}\" cx=\"{x:.1}\" cy=\"{middle}\" r=\"4\">")
                }
                Tone::Held => format!("<circle class=\"ring {tone}\" cx=\"{x:.1}\" cy=\"{middle}\" r=\"4\">"),
                Tone::Refused => format!(
                    "<rect class=\"{tone}\" x=\"{:.1}\" y=\"{}\" width=\"3\" height=\"16\">",
                    x - 1.5,
                    middle - 8.0
                ),
                Tone::Killed | Tone::Alert => {
                    format!("<path class=\"{tone}\" d=\"M{x:.1} {}l6 6-6 6-6-6z\">", middle - 6.0)
                }
            };
            let element = if mark.starts_with("<circle") {
                "circle"
            } else if mark.starts_with("<rect") {
                "rect"
            } else {
                "path"
            };
            let _ = writeln!(svg, "{mark}<title>{title}</title></{element}>");
        }
    }
    let bottom = height - 6.0;
    let clock = |at: claw::time::Instant| at.format().get(11..19).unwrap_or_default().to_owned();
    let _ = writeln!(svg, "<text class=\"tick\" x=\"{LEFT}\" y=\"{bottom}\">{}</text>", clock(first.at));
    let _ = writeln!(svg, "<text class=\"tick end\" x=\"{WIDTH}\" y=\"{bottom}\">{}</text>", clock(end.at));
    svg.push_str("</svg>\n");
    svg
}

/// Rows of the picture of traffic; what is less is added up.
const MOST_ROWS: usize = 12;
/// Characters of a label there.
const LABEL: usize = 30;

/// Traffic by group: what passed, and what was refused.
pub(super) fn traffic(page: &Page, flows: &BTreeMap<String, Flow>) -> String {
    let mut rows: Vec<(String, Flow)> = flows.iter().map(|(name, flow)| (name.clone(), *flow)).collect();
    rows.sort_by_key(|(_, flow)| std::cmp::Reverse(flow.passed.saturating_add(flow.refused)));
    if rows.len() > MOST_ROWS {
        let rest = rows.split_off(MOST_ROWS - 1);
        let add = |sum: Flow, (_, flow): &(String, Flow)| Flow {
            passed: sum.passed.saturating_add(flow.passed),
            refused: sum.refused.saturating_add(flow.refused),
        };
        rows.push((format!("{} others", rest.len()), rest.iter().fold(Flow::default(), add)));
    }
    let most = rows.iter().map(|(_, flow)| flow.passed.saturating_add(flow.refused)).max().unwrap_or(0).max(1) as f64;
    let (left, room, row) = (250.0, WIDTH - 250.0 - 190.0, 30.0);
    let height = row * rows.len() as f64 + 6.0;
    let mut svg = format!(
        "<svg class=\"picture\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Traffic by group\">\n\
         <defs><pattern id=\"hatch\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">\
         <rect class=\"hatch-ground\" width=\"6\" height=\"6\"/><rect class=\"hatch-line\" width=\"2.5\" height=\"6\"/></pattern></defs>\n"
    );
    for (i, (name, flow)) in rows.iter().enumerate() {
        let top = row * i as f64 + 6.0;
        let middle = top + 14.0;
        let width = |count: u64| if count == 0 { 0.0 } else { (count as f64 / most * room).max(2.0) };
        let (passed, refused) = (width(flow.passed), width(flow.refused));
        let _ = writeln!(
            svg,
            "<text class=\"label\" x=\"{}\" y=\"{middle}\">{}</text>",
            left - 12.0,
            page.text(&super::html::cut(name, LABEL))
        );
        if passed > 0.0 {
            let _ = writeln!(
                svg,
                "<rect class=\"allowed\" x=\"{left}\" y=\"{top}\" width=\"{passed:.1}\" height=\"18\" rx=\"2\"/>"
            );
        }
        if refused > 0.0 {
            let x = left + passed + if passed > 0.0 { 2.0 } else { 0.0 };
            let _ = writeln!(
                svg,
                "<rect class=\"hatched\" x=\"{x:.1}\" y=\"{top}\" width=\"{refused:.1}\" height=\"18\" rx=\"2\"/>"
            );
        }
        let said = match (flow.passed, flow.refused) {
            (passed, 0) => format!("{passed}"),
            (0, refused) => format!("{refused} refused"),
            (passed, refused) => format!("{passed}, {refused} refused"),
        };
        let x = left + passed + refused + 12.0;
        let _ = writeln!(svg, "<text class=\"value\" x=\"{x:.1}\" y=\"{middle}\">{said}</text>");
    }
    svg.push_str("</svg>\n");
    svg
}
