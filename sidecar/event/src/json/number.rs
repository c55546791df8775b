//! Which numbers survive a round trip through IEEE double.

/// Largest integer below which every integer is a double of its own (2^53).
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The double of a JSON number's text, if printing it gives the same decimal value back and it is within ±2^53.
pub(crate) fn survives(text: &str) -> Option<f64> {
    // Nearly all numbers are short integers: exact by construction.
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.len() <= 15 && digits.bytes().all(|b| b.is_ascii_digit()) {
        let magnitude = digits.bytes().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0')) as f64;
        return Some(if digits.len() == text.len() { magnitude } else { -magnitude });
    }
    let number: f64 = text.parse().ok()?;
    // Up to 15 digits and no exponent: no other decimal of as many digits is the same double, so this one is its shortest form.
    if digits.len() <= 16 && digits.contains('.') && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Some(number);
    }
    if !number.is_finite() || number.abs() > EXACT {
        return None;
    }
    // The shortest form as ECMAScript has it: that is what the record will show.
    (decimal(text) == decimal(ryu_js::Buffer::new().format(number))).then_some(number)
}

/// Significant digits without zeros at either end, and the exponent of the last of them: a decimal value in one form.
fn decimal(text: &str) -> (Vec<u8>, i64) {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse().unwrap_or(i64::MAX / 4)),
        None => (text, 0i64),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    let mut exponent = exponent - fraction.len() as i64;
    while digits.last() == Some(&b'0') {
        digits.pop();
        exponent += 1;
    }
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    digits.drain(..zeros);
    if digits.is_empty() { (digits, 0) } else { (digits, exponent) }
}

#[cfg(test)]
mod tests {
    use super::survives;

    #[test]
    fn numbers_that_double_holds_survive_and_others_do_not() {
        for text in [
            "0",
            "-0",
            "1",
            "-17",
            "0.1",
            "1.50",
            "1e3",
            "1E+2",
            "9007199254740992",
            "-9007199254740992",
            "4111111111111111",
            "123.456",
            "1e-7",
            "0.000001",
            "5e-324",
        ] {
            assert_eq!(survives(text), Some(text.parse().unwrap()), "{text}");
        }
        for text in [
            "9007199254740993",
            "9007199254740.993",
            "9007199254740993.5",
            "900719925474.09931",
            "18014398509481984",
            "1e400",
            "1e16",
            "0.1000000000000000055",
            "3.14159265358979323846",
            "1e-400",
            "123456789012345678",
        ] {
            assert_eq!(survives(text), None, "{text}");
        }
    }
}
