//! Walks the dashboard's JSON: what each panel must have, and its queries with the variables substituted.

use crate::Query;
use serde_json::Value;
use std::collections::BTreeSet;

/// What stands for the dashboard's variables. The window has at least two scrapes.
const VARIABLES: [(&str, &str); 4] =
    [("$__rate_interval", "15s"), ("$node", ".*"), ("$resource", ".*"), ("${datasource}", "prometheus")];

/// Returns what is wrong with the panels: an id that is not unique, or no title, description or unit.
pub(crate) fn faults(board: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let mut ids = BTreeSet::new();
    let mut places = Vec::new();
    for panel in panels(board) {
        let text = |pointer: &str| panel.pointer(pointer).and_then(Value::as_str).unwrap_or_default().trim();
        let id = panel.get("id").and_then(Value::as_u64);
        let name = format!("panel {id:?} {:?}", text("/title"));
        if !id.is_some_and(|id| ids.insert(id)) {
            faults.push(format!("{name}: its id is missing or not unique"));
        }
        let is_row = text("/type") == "row";
        for pointer in ["/title", "/description", "/fieldConfig/defaults/unit"] {
            if text(pointer).is_empty() && !(is_row && pointer.ends_with("unit")) {
                faults.push(format!("{name}: no {pointer}"));
            }
        }
        if !is_row && queries_of(panel).next().is_none() {
            faults.push(format!("{name}: no query"));
        }
        let side = |key: &str| panel.pointer(&format!("/gridPos/{key}")).and_then(Value::as_u64).unwrap_or(0);
        let place = (side("x"), side("y"), side("x") + side("w"), side("y") + side("h"));
        if place.2 > 24 || places.iter().any(|other| overlap(place, *other)) {
            faults.push(format!("{name}: it overlaps another panel or the border"));
        }
        places.push(place);
    }
    if ids.is_empty() {
        faults.push("no panel".to_owned());
    }
    faults
}

type Place = (u64, u64, u64, u64);

fn overlap(a: Place, b: Place) -> bool {
    a.0 < b.2 && b.0 < a.2 && a.1 < b.3 && b.1 < a.3
}

/// What makes a count of nothing 0. Without it the query has data only if there is something to count.
const OR_ZERO: &str = " or vector(0)";

/// Returns the queries of all panels and of all variables, without [`OR_ZERO`].
pub(crate) fn queries(board: &Value) -> Vec<Query> {
    let mut queries = Vec::new();
    for panel in panels(board) {
        let title = panel.get("title").and_then(Value::as_str).unwrap_or_default();
        for (reference, expression) in queries_of(panel) {
            queries.push(Query {
                name: format!("panel {}: {reference}", substituted(title)),
                expression: substituted(expression).replace(OR_ZERO, ""),
            });
        }
    }
    for variable in board.pointer("/templating/list").and_then(Value::as_array).into_iter().flatten() {
        // label_values(METRIC, LABEL) is Grafana's; Prometheus has the same by a query.
        let definition = variable.get("definition").and_then(Value::as_str);
        if let Some((metric, label)) = definition
            .and_then(|text| text.strip_prefix("label_values(")?.strip_suffix(')')?.split_once(", "))
        {
            queries.push(Query {
                name: format!("variable {label}"),
                expression: format!("group by ({label}) ({metric}{{{label}!=\"\"}})"),
            });
        }
    }
    queries
}

/// Returns the panels, also those of a collapsed row.
fn panels(board: &Value) -> Vec<&Value> {
    let below = |panel| std::iter::once(panel).chain(children(panel));
    children(board).iter().flat_map(below).collect()
}

fn children(panel: &Value) -> &[Value] {
    panel.get("panels").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn queries_of(panel: &Value) -> impl Iterator<Item = (&str, &str)> {
    let targets = panel.get("targets").and_then(Value::as_array).into_iter().flatten();
    targets.filter_map(|target| Some((target.get("refId")?.as_str()?, target.get("expr")?.as_str()?)))
}

fn substituted(text: &str) -> String {
    VARIABLES.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Value {
        serde_json::from_str(include_str!("../../../deploy/monitoring/dashboard.json")).unwrap()
    }

    #[test]
    fn dashboard_has_no_fault() {
        assert_eq!(faults(&board()), [""; 0]);
    }

    #[test]
    fn faults_of_a_panel_are_found() {
        let mut board = board();
        board["panels"][2]["id"] = board["panels"][1]["id"].clone();
        board["panels"][3]["title"] = " ".into();
        board["panels"][4]["fieldConfig"]["defaults"]["unit"] = Value::Null;
        board["panels"][5]["targets"] = Value::Null;
        board["panels"][6]["gridPos"] = board["panels"][5]["gridPos"].clone();
        let faults = faults(&board);
        for (fault, expected) in faults.iter().zip(["its id", "no /title", "unit", "no query", "it overlaps"])
        {
            assert!(fault.contains(expected), "{faults:#?}");
        }
        assert_eq!(faults.len(), 5, "{faults:#?}");
    }

    #[test]
    fn no_variable_and_no_zero_is_left_in_a_query() {
        let queries = queries(&board());
        assert!(queries.len() > 20 && queries.iter().all(|query| !query.expression.contains('$')));
        assert!(queries.iter().all(|query| !query.expression.contains(OR_ZERO)));
        assert!(include_str!("../../../deploy/monitoring/dashboard.json").contains(OR_ZERO));
        assert!(
            queries.iter().any(|query| query.expression == "group by (node) (vfio_build_info{node!=\"\"})")
        );
    }
}
