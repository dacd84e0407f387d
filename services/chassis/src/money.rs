//! Exact amounts of money. Whole minor units inside, decimal text outside, never a float.

use std::fmt;

/// A currency of ISO 4217.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency {
    code: [u8; 3],
    decimals: u8,
}

/// Currencies in use, except those below, have two decimals.
const TWO: &str = "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC CUP \
    CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT \
    LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON \
    RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VES WST XCD YER \
    ZAR ZMW ZWG";
const NONE: &str = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF";
const THREE: &str = "BHD IQD JOD KWD LYD OMR TND";

impl Currency {
    /// The currency with this code, upper case.
    ///
    /// # Errors
    /// [`MoneyError::Currency`] when there is none.
    pub fn find(code: &str) -> Result<Currency, MoneyError> {
        let bytes: [u8; 3] = code.as_bytes().try_into().map_err(|_| MoneyError::Currency)?;
        let listed = |list: &str| list.split(' ').any(|c| c == code);
        let decimals = match () {
            () if listed(TWO) => 2,
            () if listed(NONE) => 0,
            () if listed(THREE) => 3,
            () => return Err(MoneyError::Currency),
        };
        Ok(Currency { code: bytes, decimals })
    }

    /// The ISO 4217 code.
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.code).expect("codes are ascii")
    }

    /// How many decimals an amount has.
    pub fn decimals(&self) -> u32 {
        u32::from(self.decimals)
    }

    fn unit(&self) -> u64 {
        10_u64.pow(self.decimals())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// An exact amount in one currency.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    minor: i64,
    currency: Currency,
}

/// Why an amount is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// No currency has this code.
    #[error("unknown currency")]
    Currency,
    /// Not decimal text.
    #[error("not an amount")]
    Amount,
    /// More decimals than the currency has.
    #[error("more decimals than the currency has")]
    Decimals,
    /// Too large to be held.
    #[error("the amount is too large")]
    Overflow,
    /// Two currencies in one calculation.
    #[error("two currencies cannot be added")]
    Mixed,
}

impl Money {
    /// An amount in minor units, such as cents.
    pub fn new(minor: i64, currency: Currency) -> Money {
        Money { minor, currency }
    }

    /// An amount in minor units of the currency with this code.
    ///
    /// # Errors
    /// [`MoneyError::Currency`].
    pub fn from_minor(code: &str, minor: i64) -> Result<Money, MoneyError> {
        Ok(Money { minor, currency: Currency::find(code)? })
    }

    /// Nothing, in this currency.
    pub fn zero(currency: Currency) -> Money {
        Money { minor: 0, currency }
    }

    /// Reads decimal text: `29.99`, `-5`, `0.5`.
    ///
    /// # Errors
    /// Any [`MoneyError`] but `Mixed`.
    pub fn parse(code: &str, amount: &str) -> Result<Money, MoneyError> {
        let currency = Currency::find(code)?;
        let (negative, digits) = match amount.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, amount),
        };
        let (whole, fraction) = match digits.split_once('.') {
            Some((_, "")) => return Err(MoneyError::Amount),
            Some(parts) => parts,
            None => (digits, ""),
        };
        if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|c| c.is_ascii_digit()) {
            return Err(MoneyError::Amount);
        }
        if fraction.len() > currency.decimals() as usize {
            return Err(MoneyError::Decimals);
        }
        let padding = 10_i64.pow(currency.decimals() - fraction.len() as u32);
        // Folded in the negative range, which is larger by one.
        let minor = whole.bytes().chain(fraction.bytes()).try_fold(0_i64, |sum, c| sum.checked_mul(10)?.checked_sub(i64::from(c - b'0')));
        let minor = minor.and_then(|m| m.checked_mul(padding)).ok_or(MoneyError::Overflow)?;
        let minor = if negative { minor } else { minor.checked_neg().ok_or(MoneyError::Overflow)? };
        Ok(Money { minor, currency })
    }

    /// The amount a JSON number means: its shortest decimal text, which must not have more decimals than the currency.
    ///
    /// # Errors
    /// Any [`MoneyError`] but `Mixed`.
    pub fn from_f64_exact(code: &str, amount: f64) -> Result<Money, MoneyError> {
        if !amount.is_finite() || amount.abs() >= 1e15 {
            return Err(if amount.is_finite() { MoneyError::Overflow } else { MoneyError::Amount });
        }
        Money::parse(code, &amount.to_string())
    }

    /// Whole minor units.
    pub fn minor(&self) -> i64 {
        self.minor
    }

    /// The currency.
    pub fn currency(&self) -> Currency {
        self.currency
    }

    /// Decimal text with all decimals of the currency: `29.90`.
    pub fn to_amount(&self) -> String {
        let (sign, minor, unit) = (if self.minor < 0 { "-" } else { "" }, self.minor.unsigned_abs(), self.currency.unit());
        match self.currency.decimals() as usize {
            0 => format!("{sign}{minor}"),
            decimals => format!("{sign}{}.{:0decimals$}", minor / unit, minor % unit),
        }
    }

    /// The sum.
    ///
    /// # Errors
    /// `Mixed`, `Overflow`.
    pub fn checked_add(self, other: Money) -> Result<Money, MoneyError> {
        self.same(other)?;
        Ok(Money { minor: self.minor.checked_add(other.minor).ok_or(MoneyError::Overflow)?, ..self })
    }

    /// The difference.
    ///
    /// # Errors
    /// `Mixed`, `Overflow`.
    pub fn checked_sub(self, other: Money) -> Result<Money, MoneyError> {
        self.same(other)?;
        Ok(Money { minor: self.minor.checked_sub(other.minor).ok_or(MoneyError::Overflow)?, ..self })
    }

    /// So many times the amount.
    ///
    /// # Errors
    /// `Overflow`.
    pub fn checked_mul(self, times: i64) -> Result<Money, MoneyError> {
        Ok(Money { minor: self.minor.checked_mul(times).ok_or(MoneyError::Overflow)?, ..self })
    }

    fn same(self, other: Money) -> Result<(), MoneyError> {
        if self.currency == other.currency { Ok(()) } else { Err(MoneyError::Mixed) }
    }

    /// Splits the amount in proportion to the weights. The parts add up to the whole: what rounding leaves goes, one minor unit each, to
    /// the largest remainders, and among equals to the first. Without any weight everything goes to the first part; without parts there is
    /// none.
    pub fn split(self, weights: &[u64]) -> Vec<Money> {
        let total: u128 = weights.iter().map(|w| u128::from(*w)).sum();
        let whole = u128::from(self.minor.unsigned_abs());
        let mut parts: Vec<(u128, u128)> = match total {
            0 => weights.iter().map(|_| (0, 0)).collect(),
            _ => weights.iter().map(|w| (whole * u128::from(*w) / total, whole * u128::from(*w) % total)).collect(),
        };
        let mut left = whole - parts.iter().map(|(part, _)| part).sum::<u128>();
        if let (0, Some(first)) = (total, parts.first_mut()) {
            first.0 = left;
            left = 0;
        }
        let mut order: Vec<usize> = (0..parts.len()).collect();
        order.sort_by_key(|i| std::cmp::Reverse(parts[*i].1));
        for i in order.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            parts[i].0 += 1;
        }
        let minor = |part: u128| {
            let part = i128::try_from(part).expect("a part is at most 2^63");
            i64::try_from(if self.minor < 0 { -part } else { part }).expect("a part is not larger than the whole")
        };
        parts.into_iter().map(|(part, _)| Money { minor: minor(part), ..self }).collect()
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.to_amount(), self.currency.code())
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A message that carries money; implemented for the generated type of the contracts.
pub trait MoneyMessage: Sized {
    /// Currency code and amount as sent.
    fn parts(&self) -> (&str, &str);
    /// The message for a code and an amount.
    fn from_parts(code: String, amount: String) -> Self;
}

impl Money {
    /// Reads a money message.
    ///
    /// # Errors
    /// As [`Money::parse`].
    pub fn from_proto<M: MoneyMessage>(message: &M) -> Result<Money, MoneyError> {
        let (code, amount) = message.parts();
        Money::parse(code, amount)
    }

    /// Writes a money message.
    pub fn into_proto<M: MoneyMessage>(self) -> M {
        M::from_parts(self.currency.code().to_owned(), self.to_amount())
    }
}

impl MoneyMessage for mercato_contracts::mercato::r#type::v1::Money {
    fn parts(&self) -> (&str, &str) {
        (&self.currency_code, &self.amount)
    }

    fn from_parts(currency_code: String, amount: String) -> Self {
        Self { currency_code, amount }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_currencies_allow() {
        assert_eq!(Money::parse("EUR", "29.9").unwrap().to_amount(), "29.90");
        assert_eq!(Money::parse("JPY", "120").unwrap().minor(), 120);
        assert_eq!(Money::parse("KWD", "-0.005").unwrap().to_amount(), "-0.005");
        assert_eq!(Money::parse("EUR", "1.999"), Err(MoneyError::Decimals));
        assert_eq!(Money::parse("JPY", "1.5"), Err(MoneyError::Decimals));
        assert_eq!(Money::parse("EURO", "1"), Err(MoneyError::Currency));
        for text in ["", "-", ".5", "5.", "1,5", "+1", "1e3", " 1", "٣"] {
            assert_eq!(Money::parse("EUR", text), Err(MoneyError::Amount), "{text:?}");
        }
        assert_eq!(Money::parse("EUR", "92233720368547758.08"), Err(MoneyError::Overflow));
        assert_eq!(Money::parse("EUR", "-92233720368547758.08").unwrap().minor(), i64::MIN);
    }

    #[test]
    fn json_numbers_are_exact_or_refused() {
        assert_eq!(Money::from_f64_exact("EUR", 29.99).unwrap().minor(), 2999);
        assert_eq!(Money::from_f64_exact("EUR", 0.1 + 0.2), Err(MoneyError::Decimals));
        assert_eq!(Money::from_f64_exact("EUR", f64::NAN), Err(MoneyError::Amount));
        assert_eq!(Money::from_f64_exact("EUR", 1e300), Err(MoneyError::Overflow));
    }

    proptest! {
        #[test]
        fn text_and_back_is_the_same(minor: i64, code in prop::sample::select(vec!["EUR", "JPY", "KWD"])) {
            let money = Money::from_minor(code, minor).unwrap();
            prop_assert_eq!(Money::parse(code, &money.to_amount()), Ok(money));
        }

        #[test]
        fn cents_survive_a_json_number(minor in -1_000_000_000_000_i64..1_000_000_000_000) {
            let money = Money::from_minor("EUR", minor).unwrap();
            let number: f64 = money.to_amount().parse().unwrap();
            prop_assert_eq!(Money::from_f64_exact("EUR", number), Ok(money));
        }

        #[test]
        fn parts_add_up_to_the_whole(minor: i64, weights in prop::collection::vec(0_u64..1_000_000, 1..20)) {
            let money = Money::from_minor("EUR", minor).unwrap();
            let parts = money.split(&weights);
            prop_assert_eq!(parts.iter().map(|p| i128::from(p.minor())).sum::<i128>(), i128::from(minor));
            let total: u64 = weights.iter().sum();
            for (part, weight) in parts.iter().zip(&weights) {
                if total > 0 {
                    let exact = i128::from(minor) * i128::from(*weight) / i128::from(total);
                    prop_assert!((i128::from(part.minor()) - exact).abs() <= 1);
                }
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,30}") {
            let _ = Money::parse("EUR", &text);
        }
    }
}
