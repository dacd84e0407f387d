//! `mercato sql`: a role's database, for operators. See docs/runbooks.

use mercato_chassis::{
    boot::{self, DatabaseAnswer},
    role::Platform,
};
use std::io::{Read as _, Write as _};

/// Asks, and prints the answers.
pub async fn ask(platform: &Platform, role: &str, mut statements: String) -> anyhow::Result<()> {
    if statements == "-" {
        statements.clear();
        std::io::stdin().read_to_string(&mut statements)?;
    }
    let answers = boot::ask_database(platform, role, statements).await?;
    let mut out = std::io::stdout().lock();
    for answer in worth_telling(&answers) {
        writeln!(out, "{}", table(answer))?;
    }
    Ok(())
}

/// Of several answers those with rows; what the others did stands in them.
fn worth_telling(answers: &[DatabaseAnswer]) -> Vec<&DatabaseAnswer> {
    let with_rows: Vec<_> = answers.iter().filter(|answer| !answer.columns.is_empty()).collect();
    if with_rows.is_empty() { answers.last().into_iter().collect() } else { with_rows }
}

/// As PostgreSQL's own client shows it, whose users know where to look.
fn table(answer: &DatabaseAnswer) -> String {
    if answer.columns.is_empty() {
        return match answer.affected {
            0 => "(0 rows)".into(),
            1 => "1 row changed".into(),
            count => format!("{count} rows changed"),
        };
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_default().replace('\n', "\\n");
    let rows: Vec<Vec<String>> = answer.rows.iter().map(|row| row.iter().map(text).collect()).collect();
    let widest = |i: usize| rows.iter().map(|row| row[i].chars().count()).chain([answer.columns[i].chars().count()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..answer.columns.len()).map(widest).collect();
    let line = |values: &[String]| {
        let padded = values.iter().zip(&widths).map(|(value, width)| format!(" {value:width$} "));
        padded.collect::<Vec<_>>().join("|").trim_end().to_owned()
    };
    let ruler = widths.iter().map(|width| "-".repeat(width + 2)).collect::<Vec<_>>().join("+");
    let count = if rows.len() == 1 { "(1 row)".into() } else { format!("({} rows)", rows.len()) };
    let rows: Vec<String> = rows.iter().map(|row| line(row)).collect();
    [vec![line(&answer.columns), ruler], rows, vec![count]].concat().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(columns: &[&str], rows: &[&[Option<&str>]], affected: u64) -> DatabaseAnswer {
        let owned = |row: &&[Option<&str>]| row.iter().map(|value| value.map(str::to_owned)).collect();
        DatabaseAnswer { columns: columns.iter().map(|&c| c.into()).collect(), rows: rows.iter().map(owned).collect(), affected }
    }

    #[test]
    fn rows_stand_under_their_columns() {
        let told = table(&answer(&["pid", "query"], &[&[Some("7"), Some("select\n1")], &[Some("12345"), None]], 2));
        assert_eq!(told, " pid   | query\n-------+-----------\n 7     | select\\n1\n 12345 |\n(2 rows)");
        assert_eq!(table(&answer(&["n"], &[&[Some("1")]], 1)), " n\n---\n 1\n(1 row)");
    }

    #[test]
    fn changes_are_counted() {
        assert_eq!(table(&answer(&[], &[], 0)), "(0 rows)");
        assert_eq!(table(&answer(&[], &[], 1)), "1 row changed");
        assert_eq!(table(&answer(&[], &[], 3)), "3 rows changed");
    }
}
