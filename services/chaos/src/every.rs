//! Every nemesis, one after the other, each on a shop of its own; and the table of what came of it.

use crate::{
    nemesis::Nemesis,
    report::Figures,
    run::{Options, Outcome, flood},
};
use anyhow::{Context, Result};

/// Runs as many orders under each nemesis and under their mix. A run that cannot be brought to its end counts as a violation, and the
/// others go on.
///
/// # Errors
/// None at present; a shop that does not start is in the outcome.
pub async fn all(options: &Options) -> Result<Outcome> {
    let (mut lines, mut violations) = (vec![Figures::HEAD.to_owned()], Vec::new());
    for nemesis in Nemesis::SINGLE.into_iter().chain([Nemesis::Mix]) {
        let state = options.state.with_file_name(format!("mercato-chaos-{}-{}-{nemesis:?}", std::process::id(), options.seed));
        let one = Options { nemesis, state, ..options.clone() };
        eprintln!("--- {nemesis:?}");
        match flood(&one).await.with_context(|| format!("{nemesis:?}")) {
            Ok((outcome, figures)) => {
                eprintln!("{}\n{figures}", outcome.report);
                lines.push(figures.to_string());
                violations.extend(outcome.violations.iter().map(|violation| format!("{nemesis:?}: {violation}")));
            }
            Err(error) => {
                eprintln!("error: {error:#}");
                violations.push(format!("{error:#}"));
            }
        }
    }
    lines.push(String::new());
    lines.extend(violations.iter().map(|violation| format!("VIOLATED {violation}")));
    Ok(Outcome { violations, report: lines.join("\n") })
}
