//! What the encrypted sleeve has to reach beside the original, and beside another binary of Weft.

use super::plan::{CPU_FOUR, CPU_PER_GBIT, Comparison, FOUR_STREAMS, ONE_STREAM, Part, TRIP};
use super::table::{Column, Table};

/// One goal: a ratio of medians, Weft's to that of another row.
struct Goal {
    what: &'static str,
    column: Column,
    bound: Bound,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// What a changed data plane has to reach beside the one before.
const TRIPS: [Goal; 1] = [Goal {
    what: "median round trip",
    column: TRIP,
    bound: Bound::AtMost(0.8),
}];

fn goals() -> [Goal; 5] {
    let goal = |what, column, bound| Goal {
        what,
        column,
        bound,
    };
    [
        goal("throughput, one stream", ONE_STREAM, Bound::AtLeast(10.0)),
        goal(
            "throughput, four streams",
            FOUR_STREAMS,
            Bound::AtLeast(10.0),
        ),
        goal("CPU time per gigabit", CPU_PER_GBIT, Bound::AtMost(0.1)),
        goal(
            "CPU time per gigabit, four streams",
            CPU_FOUR,
            Bound::AtMost(0.1),
        ),
        goal("median round trip", TRIP, Bound::AtMost(0.6)),
    ]
}

/// The verdict on a part that has goals, one line for each, and whether all are reached.
pub(super) fn verdict(part: Part, table: &Table) -> Option<(String, bool)> {
    match part {
        Part::Tcp => Some(beside_the_original(table)),
        Part::Trips => beside_the_one_before(table),
        Part::Flows | Part::Packets | Part::Many | Part::Relay => None,
    }
}

/// Round trips, if another binary took part.
fn beside_the_one_before(table: &Table) -> Option<(String, bool)> {
    table.ratio(&Comparison::BEFORE, &TRIP)?;
    let (lines, all) = compare(table, &Comparison::BEFORE, &TRIPS);
    Some((format!("Goal, beside the Weft before:\n\n{lines}"), all))
}

/// The goals are those of what Wefts send each other; how far the original's cipher reaches is only
/// told.
fn beside_the_original(table: &Table) -> (String, bool) {
    let (lines, all) = compare(table, &Comparison::ENCRYPTED, &goals());
    let (others, _) = compare(table, &Comparison::SECRETBOX, &goals());
    let text = format!(
        "Goals, encrypted Weft beside the encrypted original:\n\n{lines}\n\
         The same with the original's cipher (`--check` does not count it):\n\n{others}"
    );
    (text, all)
}

/// One line per goal for two rows, and whether all are reached.
fn compare(table: &Table, rows: &Comparison, goals: &[Goal]) -> (String, bool) {
    let mut all = true;
    let mut text = String::new();
    for Goal {
        what,
        column,
        bound,
    } in goals
    {
        let ratio = table.ratio(rows, column).unwrap_or(f64::NAN);
        // What is not a number is not reached.
        let (reached, words, shown) = match *bound {
            Bound::AtLeast(least) => (
                ratio >= least,
                format!("at least {least:.0} times"),
                format!("{ratio:.1} times"),
            ),
            Bound::AtMost(most) => (
                ratio <= most,
                format!("at most {most:.1} of it"),
                format!("{ratio:.3} of it"),
            ),
        };
        all &= reached;
        let word = if reached { "reached" } else { "MISSED" };
        let shown = if ratio.is_nan() {
            "not measured".to_owned()
        } else {
            shown
        };
        text.push_str(&format!("* {what}: {words}; {shown}: {word}\n"));
    }
    (text, all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REACHED: [f64; 6] = [10.0, 10.0, 0.1, 0.1, 60.0, 1.0];
    const SLOW: [f64; 6] = [9.9, 10.0, 0.1, 0.1, 60.0, 1.0];

    /// Samples of Weft, of Weft with the original's cipher, and of the original.
    fn table(weft: [f64; 6], secretbox: [f64; 6]) -> Table {
        let names = [
            "weft sleeve encrypted",
            "weft sleeve secretbox",
            "original encrypted",
        ];
        let mut table = Table::new(Part::Tcp.columns(), &names);
        table.add(0, weft.to_vec());
        table.add(1, secretbox.to_vec());
        table.add(2, vec![1.0, 1.0, 1.0, 1.0, 100.0, 1.0]);
        table
    }

    fn verdict(table: &Table) -> (String, bool) {
        super::verdict(Part::Tcp, table).expect("the part has goals")
    }

    /// The goals, and the lines below the second heading.
    fn parts(text: &str) -> (&str, &str) {
        text.split_once("\nThe same with the original's cipher")
            .expect("two headings")
    }

    #[test]
    fn all_goals_reached_is_said() {
        let (text, all) = verdict(&table(REACHED, REACHED));
        assert!(all, "{text}");
        let (goals, others) = parts(&text);
        assert_eq!(goals.matches(": reached\n").count(), 5, "{text}");
        assert_eq!(others.matches(": reached\n").count(), 5, "{text}");
    }

    #[test]
    fn one_missed_goal_is_named() {
        let (text, all) = verdict(&table(SLOW, REACHED));
        assert!(!all);
        let line = "throughput, one stream: at least 10 times; 9.9 times: MISSED";
        let (goals, others) = parts(&text);
        assert!(goals.contains(line), "{text}");
        assert!(!others.contains("MISSED"), "{text}");
    }

    #[test]
    fn what_the_originals_cipher_misses_is_told_and_decides_nothing() {
        let (text, all) = verdict(&table(REACHED, SLOW));
        assert!(all, "{text}");
        let (goals, others) = parts(&text);
        assert!(!goals.contains("MISSED"), "{text}");
        assert_eq!(others.matches(": MISSED\n").count(), 1, "{text}");
    }

    #[test]
    fn round_trips_have_a_goal_only_beside_another_binary() {
        let names = ["weft before encrypted", "weft sleeve encrypted"];
        let mut alone = Table::new(Part::Trips.columns(), &names[1..]);
        alone.add(0, vec![80.0, 100.0, 1.0, 1.0]);
        assert!(super::verdict(Part::Trips, &alone).is_none());
        for (now, reached) in [(80.0, true), (81.0, false)] {
            let mut table = Table::new(Part::Trips.columns(), &names);
            table.add(0, vec![100.0, 200.0, 1.0, 1.0]);
            table.add(1, vec![now, 200.0, 1.0, 1.0]);
            let (text, all) = super::verdict(Part::Trips, &table).expect("both took part");
            assert_eq!(all, reached, "{text}");
        }
    }

    #[test]
    fn without_the_original_nothing_is_reached() {
        let names = ["weft sleeve encrypted", "weft sleeve secretbox"];
        let (text, all) = verdict(&Table::new(Part::Tcp.columns(), &names));
        assert!(!all);
        assert_eq!(text.matches("not measured: MISSED").count(), 10, "{text}");
    }
}
