//! Samples to medians, and medians to a table in Markdown.

use std::fmt::Write as _;

use super::plan::Comparison;

/// What is measured, and how it is shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    title: &'static str,
    digits: usize,
    of_raw: bool,
    ratio: Option<Ratio>,
}

/// How Weft's number stands to another, in words that follow the number.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ratio {
    /// More is better: "10.5 times ...".
    Times(&'static str),
    /// Less is better: "0.11 of ...".
    Of(&'static str),
}

impl Column {
    pub(super) const fn new(title: &'static str, digits: usize) -> Self {
        Self {
            title,
            digits,
            of_raw: false,
            ratio: None,
        }
    }

    /// With a column beside it: the share of what the first row has.
    pub(super) const fn of_raw(mut self) -> Self {
        self.of_raw = true;
        self
    }

    pub(super) const fn ratio(mut self, ratio: Ratio) -> Self {
        self.ratio = Some(ratio);
        self
    }
}

/// All rounds of one path. A sample has one value per column.
pub(super) struct Row {
    name: &'static str,
    samples: Vec<Vec<f64>>,
}

/// All paths of one kind of traffic; the first row is the raw network.
pub(super) struct Table {
    columns: &'static [Column],
    rows: Vec<Row>,
}

impl Table {
    pub(super) fn new(columns: &'static [Column], names: &[&'static str]) -> Self {
        let row = |name: &&'static str| Row {
            name,
            samples: Vec::new(),
        };
        Self {
            columns,
            rows: names.iter().map(row).collect(),
        }
    }

    /// Adds a round to row number `row`.
    pub(super) fn add(&mut self, row: usize, sample: Vec<f64>) {
        assert_eq!(sample.len(), self.columns.len(), "one value per column");
        self.rows[row].samples.push(sample);
    }

    /// Weft's median in a column divided by the other's, if both took part.
    pub(super) fn ratio(&self, rows: &Comparison, column: &Column) -> Option<f64> {
        let at = self.columns.iter().position(|c| c.title == column.title)?;
        let median = |who: &str| {
            let row = self.rows.iter().find(|row| row.name == who)?;
            row.summary(at).map(|summary| summary.median)
        };
        Some(median(rows.weft.name())? / median(rows.other.name())?)
    }

    /// The table, and a sentence for each comparison that has both rows.
    pub(super) fn render(&self) -> String {
        let mut text = String::from("| path |");
        let mut rule = String::from("|---|");
        for column in self.columns {
            let _ = write!(text, " {} |", column.title);
            rule.push_str("---|");
            if column.of_raw {
                text.push_str(" of raw |");
                rule.push_str("---|");
            }
        }
        let _ = write!(text, "\n{rule}\n");
        for row in &self.rows {
            let _ = write!(text, "| {} |", row.name);
            for (at, column) in self.columns.iter().enumerate() {
                let summary = row.summary(at);
                let cell = summary.as_ref().map(|s| s.cell(column.digits));
                let _ = write!(text, " {} |", cell.as_deref().unwrap_or("-"));
                if column.of_raw {
                    let raw = self.rows.first().and_then(|row| row.summary(at));
                    let share = summary.zip(raw).map(|(own, raw)| own.median / raw.median);
                    let _ = write!(text, " {:.2} |", share.unwrap_or(f64::NAN));
                }
            }
            text.push('\n');
        }
        for rows in &Comparison::ALL {
            let parts: Vec<String> = self.sentences(rows);
            if !parts.is_empty() {
                let (words, parts) = (rows.words, parts.join(", "));
                let _ = write!(text, "\n{words}: {parts}.\n");
            }
        }
        text
    }

    fn sentences(&self, rows: &Comparison) -> Vec<String> {
        let columns = self.columns.iter();
        columns
            .filter_map(|column| {
                let number = self.ratio(rows, column)?;
                column.ratio.map(|ratio| match ratio {
                    Ratio::Times(words) => format!("{number:.1} times {words}"),
                    Ratio::Of(words) => format!("{number:.2} of {words}"),
                })
            })
            .collect()
    }
}

impl Row {
    /// Of the rounds so far, if there were any.
    fn summary(&self, column: usize) -> Option<Summary> {
        let mut values: Vec<f64> = self.samples.iter().map(|sample| sample[column]).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => return None,
            count if count % 2 == 1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        };
        Some(Summary {
            median,
            low: values[0],
            high: values[values.len() - 1],
        })
    }
}

#[derive(Debug, PartialEq)]
struct Summary {
    median: f64,
    low: f64,
    high: f64,
}

impl Summary {
    fn cell(&self, digits: usize) -> String {
        if self.median.is_nan() {
            return "-".to_owned();
        }
        format!(
            "{:.digits$} ({:.digits$}–{:.digits$})",
            self.median, self.low, self.high
        )
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const SPEED: Column = Column::new("speed", 2)
        .of_raw()
        .ratio(Ratio::Times("the speed"));
    const COST: Column = Column::new("cost", 0).ratio(Ratio::Of("the cost"));

    fn table() -> Table {
        const COLUMNS: &[Column] = &[SPEED, COST];
        let names = [
            "raw veth",
            "weft sleeve encrypted",
            "weft sleeve secretbox",
            "original encrypted",
        ];
        let mut table = Table::new(COLUMNS, &names);
        for value in [3.0, 1.0, 2.0] {
            table.add(0, vec![value * 4.0, f64::NAN]);
            table.add(1, vec![value, value * 10.0]);
            table.add(2, vec![value / 2.0, value * 20.0]);
            table.add(3, vec![value / 20.0, value * 100.0]);
        }
        table
    }

    #[test]
    fn medians_and_spread_are_those_of_the_rounds() {
        let text = table().render();
        assert!(text.starts_with("| path | speed | of raw | cost |\n|---|---|---|---|\n"));
        assert!(
            text.contains("| raw veth | 8.00 (4.00–12.00) | 1.00 | - |"),
            "{text}"
        );
        assert!(
            text.contains("| weft sleeve encrypted | 2.00 (1.00–3.00) | 0.25 | 20 (10–30) |"),
            "{text}"
        );
    }

    #[test]
    fn an_even_number_of_rounds_has_its_median_in_the_middle() {
        let row = Row {
            name: "raw veth",
            samples: vec![vec![1.0], vec![4.0], vec![2.0], vec![3.0]],
        };
        assert_eq!(row.summary(0).unwrap().median, 2.5);
    }

    #[test]
    fn ratios_are_told_for_comparisons_that_have_both() {
        let table = table();
        assert_eq!(table.ratio(&Comparison::ENCRYPTED, &SPEED), Some(20.0));
        assert_eq!(table.ratio(&Comparison::SECRETBOX, &SPEED), Some(10.0));
        assert_eq!(table.ratio(&Comparison::PLAIN, &SPEED), None);
        let text = table.render();
        for sentence in [
            "encrypted: 20.0 times the speed, 0.10 of the cost.\n",
            "encrypted, with the original's cipher: 10.0 times the speed, 0.20 of the cost.\n",
        ] {
            assert!(text.contains(sentence), "{text}");
        }
        assert!(!text.contains("plain:"), "{text}");
    }
}
