//! Sizes and base64 as Prometheus writes them in files and flags; durations are those of the model.

pub(crate) use chronolith_model::duration::format_duration;

/// Reads `1d12h30m`, in milliseconds, with the error as text. `0` needs no unit.
pub(crate) fn parse_duration(text: &str) -> Result<i64, String> {
    chronolith_model::duration::parse_duration(text).map_err(|error| error.to_string())
}

/// Reads `512MB` or `1.5GiB` in bytes; both spellings count in 1024s, and every number needs a unit.
///
/// Source: `alecthomas/units`, `ParseBase2Bytes`, which Prometheus uses.
pub(crate) fn parse_size(text: &str) -> Result<i64, String> {
    let (sign, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (-1.0, &text[1..]),
        Some(b'+') => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(format!("units: invalid {text}"));
    }
    let mut total = 0.0f64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let number: f64 = rest[..digits].parse().map_err(|_| format!("units: invalid {text}"))?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(|b| !b.is_ascii_digit() && *b != b'.').count();
        let unit = &rest[..letters];
        let power = match unit.strip_suffix("iB").or_else(|| unit.strip_suffix('B')) {
            Some("") if unit == "B" => 0,
            Some("K") => 1,
            Some("M") => 2,
            Some("G") => 3,
            Some("T") => 4,
            Some("P") => 5,
            Some("E") => 6,
            _ => return Err(format!("units: unknown unit {unit} in {text}")),
        };
        total += number * 1024f64.powi(power);
        rest = &rest[letters..];
    }
    if total >= i64::MAX as f64 {
        return Err(format!("units: {text} is too large"));
    }
    Ok((sign * total) as i64)
}

/// Writes bytes as `15MiB`, `1GiB512MiB`.
pub(crate) fn format_size(bytes: u64) -> String {
    if bytes == 0 {
        return "0B".to_owned();
    }
    let mut rest = bytes;
    let mut out = String::new();
    for (unit, shift) in
        [("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)]
    {
        let n = rest >> shift;
        if n > 0 {
            out.push_str(&format!("{n}{unit}"));
            rest -= n << shift;
        }
    }
    out
}

/// Decodes standard base64, white space skipped, padding required as YAML has it.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    if !digits.len().is_multiple_of(4) {
        return None;
    }
    let mut out = Vec::with_capacity(digits.len() / 4 * 3);
    let n_quads = digits.len() / 4;
    for (i, quad) in digits.chunks(4).enumerate() {
        let padding = quad.iter().rev().take_while(|b| **b == b'=').count();
        if padding > 2 || (padding > 0 && i + 1 < n_quads) {
            return None;
        }
        let mut bits = 0u32;
        for &digit in &quad[..4 - padding] {
            let six = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(six);
        }
        bits <<= 6 * padding as u32;
        out.extend_from_slice(&bits.to_be_bytes()[1..4 - padding]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_units_and_count_in_1024s() {
        assert_eq!(parse_size("15MB"), Ok(15 << 20));
        assert_eq!(parse_size("1GiB512MiB"), Ok(1536 << 20));
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("-1B"), Ok(-1));
        assert_eq!(parse_size("1.5KB"), Ok(1536));
        assert_eq!(parse_size("100"), Err("units: unknown unit  in 100".to_owned()));
        assert!(parse_size("9999EB").is_err());
        assert_eq!(format_size(1536 << 20), "1GiB512MiB");
    }

    #[test]
    fn base64_decodes_with_padding_only() {
        assert_eq!(decode_base64("/w=="), Some(vec![0xff]));
        assert_eq!(decode_base64("aGVsbG8="), Some(b"hello".to_vec()));
        assert_eq!(decode_base64("/w==$1"), None);
        assert_eq!(decode_base64("a==="), None);
    }
}
