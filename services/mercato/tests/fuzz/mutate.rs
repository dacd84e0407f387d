//! Turns good inputs into bad ones. Everything follows from the random numbers, so a seed brings an input back.

/// SplitMix64: small, fast without optimisation, and the same on every machine.
pub struct Rng(u64);

impl Rng {
    /// The numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 when there is none.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n.max(1)).unwrap_or(1)).unwrap_or(0)
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    pub fn of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// This many bytes.
    pub fn bytes(&mut self, many: usize) -> Vec<u8> {
        (0..many).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// The longest input.
const LONGEST: usize = 256 * 1024;

/// Numbers at the edges of types.
const EDGES: [u64; 14] =
    [0, 1, 2, 127, 128, 999, 1000, i32::MAX as u64, 1 << 31, u32::MAX as u64, i64::MAX as u64, 1 << 63, u64::MAX, u64::MAX - 1];

/// Texts that have broken something somewhere.
const TEXTS: [&[u8]; 26] = [
    b"",
    b"\0",
    b"a\0b",
    b"\xff\xfe",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"me",
    b"01890000-0000-7000-8000-000000000000",
    b"01890000-0000-7000-8000-00000000000g",
    b"-0",
    b"-1.00",
    b"9999999999999.9999",
    b"9999999999999999999999",
    b"0.00000000001",
    b"1e308",
    b"NaN",
    b"EUR",
    b"eur",
    b"JPY",
    "\u{202e}\u{feff}".as_bytes(),
    "a\u{301}\u{1f469}\u{200d}\u{1f52c}".as_bytes(),
    b"../../etc/passwd",
    b"' or 1=1 --",
    b"%00%ff",
    b"\r\nx-mercato-peer: a",
    b"{\"a\":[[[[[[]]]]]]}",
];

/// One field as it lies on the wire.
#[derive(Clone)]
struct Field {
    number: u64,
    value: Value,
}

#[derive(Clone)]
enum Value {
    Varint(u64),
    Eight([u8; 8]),
    Bytes(Vec<u8>),
    Four([u8; 4]),
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// The fields of a message, or nothing when it is none.
fn fields(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = read_varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Varint(read_varint(&mut bytes)?),
            1 => {
                let (value, rest) = bytes.split_first_chunk()?;
                bytes = rest;
                Value::Eight(*value)
            }
            2 => {
                let length = usize::try_from(read_varint(&mut bytes)?).ok()?;
                let (value, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Value::Bytes(value.to_vec())
            }
            5 => {
                let (value, rest) = bytes.split_first_chunk()?;
                bytes = rest;
                Value::Four(*value)
            }
            _ => return None,
        };
        found.push(Field { number: key >> 3, value });
    }
    Some(found)
}

fn write(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for Field { number, value } in fields {
        let kind = match value {
            Value::Varint(_) => 0,
            Value::Eight(_) => 1,
            Value::Bytes(_) => 2,
            Value::Four(_) => 5,
        };
        write_varint(&mut out, number << 3 | kind);
        match value {
            Value::Varint(value) => write_varint(&mut out, *value),
            Value::Eight(value) => out.extend_from_slice(value),
            Value::Four(value) => out.extend_from_slice(value),
            Value::Bytes(value) => {
                write_varint(&mut out, value.len() as u64);
                out.extend_from_slice(value);
            }
        }
    }
    out
}

/// An encoded message with something wrong: fields lost, repeated, of another type, of edge values, nested too deep; lengths that lie;
/// bits that fell over; or plain noise.
pub fn message(rng: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    if rng.once_in(12) {
        let many = rng.below(200);
        return rng.bytes(many);
    }
    let mut bytes = rng.of(corpus).clone();
    for _ in 0..=rng.below(3) {
        let other = rng.of(corpus);
        bytes = changed(rng, &bytes, other, 0);
    }
    if rng.once_in(3) {
        damage(rng, &mut bytes);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn changed(rng: &mut Rng, bytes: &[u8], other: &[u8], depth: usize) -> Vec<u8> {
    let Some(mut fields) = fields(bytes) else { return bytes.to_vec() };
    let place = rng.below(fields.len());
    match rng.below(10) {
        0 if !fields.is_empty() => drop(fields.remove(place)),
        1 if !fields.is_empty() => {
            let (field, many) = (fields[place].clone(), if rng.once_in(20) { rng.below(300) } else { 1 });
            fields.extend(std::iter::repeat_n(field, many));
        }
        2 => fields.push(Field { number: 1 + rng.next() % 16, value: value(rng) }),
        3 if !fields.is_empty() => fields[place].number = if rng.once_in(4) { rng.next() >> 35 } else { rng.next() % 16 },
        4 => {
            if let Some(theirs) = self::fields(other)
                && !theirs.is_empty()
            {
                fields.push(rng.of(&theirs).clone());
            }
        }
        5 if rng.once_in(8) => {
            let (mut inner, number) = (bytes.to_vec(), 1 + rng.next() % 8);
            for _ in 0..rng.below(130) {
                inner = write(&[Field { number, value: Value::Bytes(inner) }]);
            }
            return inner;
        }
        6 if fields.len() > 1 => fields.swap(place, 0),
        _ if !fields.is_empty() => match &mut fields[place].value {
            Value::Bytes(inner) if depth < 4 && rng.once_in(2) && self::fields(inner).is_some_and(|f| !f.is_empty()) => {
                *inner = changed(rng, inner, other, depth + 1);
            }
            Value::Bytes(inner) if rng.once_in(3) => text(rng, inner),
            Value::Varint(number) if rng.once_in(2) => *number = *rng.of(&EDGES),
            slot => *slot = value(rng),
        },
        _ => {}
    }
    write(&fields)
}

fn value(rng: &mut Rng) -> Value {
    match rng.below(8) {
        0 => Value::Eight(rng.next().to_le_bytes()),
        1 => Value::Eight(f64::to_le_bytes(*rng.of(&[0.0, -0.0, 0.1, 1e300, -1.0, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE]))),
        2 => Value::Four((rng.next() as u32).to_le_bytes()),
        3 | 4 => Value::Varint(*rng.of(&EDGES)),
        5 => Value::Varint(rng.next()),
        _ => {
            let mut bytes = rng.of(&TEXTS).to_vec();
            text(rng, &mut bytes);
            Value::Bytes(bytes)
        }
    }
}

/// A text with something wrong.
pub fn text(rng: &mut Rng, bytes: &mut Vec<u8>) {
    match rng.below(6) {
        0 => *bytes = rng.of(&TEXTS).to_vec(),
        1 => {
            let many = if rng.once_in(200) { LONGEST - 100 } else { rng.below(600) };
            *bytes = vec![*rng.of(b"a0-.9=Z"); many];
        }
        2 => bytes.extend_from_slice(rng.of::<&[u8]>(&TEXTS)),
        3 => {
            let many = rng.below(24);
            *bytes = rng.bytes(many);
        }
        _ => damage(rng, bytes),
    }
}

/// Damage that knows nothing of what the bytes mean.
pub fn damage(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..=rng.below(4) {
        let place = rng.below(bytes.len());
        match rng.below(6) {
            0 => bytes.truncate(place),
            1 => bytes.insert(place, rng.next().to_le_bytes()[0]),
            2 if !bytes.is_empty() => bytes[place] ^= 1 << rng.below(8),
            3 if !bytes.is_empty() => bytes[place] = *rng.of(&[0, 1, 0x7f, 0x80, 0xff]),
            4 if !bytes.is_empty() => drop(bytes.remove(place)),
            5 => {
                let end = (place + rng.below(16)).min(bytes.len());
                let part = bytes[place.min(end)..end].to_vec();
                let at = rng.below(bytes.len() + 1);
                bytes.splice(at..at, part);
            }
            _ => {}
        }
    }
}
