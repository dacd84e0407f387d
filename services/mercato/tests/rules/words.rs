//! Words of commerce, which the chassis must not know: it would serve any other business as well.

use std::path::Path;

/// In the singular. `order` is no such word: SQL and everything that is sorted needs it.
const COMMERCE: &[&str] = &["product", "cart", "payment", "customer", "invoice", "shipment", "warehouse", "price"];

/// Words of commerce in a file. Examples are excepted: tests at its end, and names in backticks in comments.
pub fn faults(path: &Path, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, line) in text.lines().enumerate().take_while(|(_, line)| line.trim() != "#[cfg(test)]") {
        let said = if line.trim().starts_with("//") { line.split('`').step_by(2).collect() } else { line.to_owned() };
        let found = words(&said).into_iter().find(|word| COMMERCE.contains(&word.strip_suffix('s').unwrap_or(word)));
        faults.extend(found.map(|word| format!("{}:{}: {word}", path.display(), number + 1)));
    }
    faults
}

/// The words of a line in lower case; `PriceList`, `price_list` and `PRICE` have the word price, `cartesian` has not cart.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for letter in line.chars() {
        if !letter.is_alphabetic() || (letter.is_uppercase() && before.is_lowercase()) {
            words.push(String::new());
        }
        if letter.is_alphabetic()
            && let Some(word) = words.last_mut()
        {
            word.extend(letter.to_lowercase());
        }
        before = letter;
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planted_words_are_found() {
        for line in ["fn total_price() {}", "struct CustomerId;", "// two invoices", "const CART: u8 = 0;", "\"mercato.payment\""] {
            assert_eq!(faults(Path::new("a.rs"), line).len(), 1, "{line}");
        }
        for line in [
            "order by id",
            "a cartesian plane",
            "/// such as `ordering.payments`, a name",
            "let production = 1;",
            "#[cfg(test)]\nlet price = 1;",
        ] {
            assert!(faults(Path::new("a.rs"), line).is_empty(), "{line}");
        }
    }
}
