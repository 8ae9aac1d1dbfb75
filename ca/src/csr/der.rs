//! Whether bytes are DER to the letter (X.690 10.1, 11.1): x509-parser steps over several forms that are not, and a
//! signature over bytes that two readers read in two ways proves nothing to one of them.

/// How deep values may be nested; a request with names and extensions needs seven levels.
const DEEPEST: u8 = 16;

/// Checks every length, every BOOLEAN and every tag, down to the primitive values.
///
/// # Errors
/// What is not DER, in words.
pub(super) fn check(bytes: &[u8]) -> Result<(), &'static str> {
    values(bytes, DEEPEST)
}

fn values(mut bytes: &[u8], depth: u8) -> Result<(), &'static str> {
    while let Some((tag, rest)) = bytes.split_first() {
        if tag & 0x1f == 0x1f {
            return Err("a tag of more than one byte");
        }
        let (length, rest) = length(rest)?;
        let (value, behind) =
            rest.split_at_checked(length).ok_or("a value that is longer than what is left")?;
        if tag & 0x20 != 0 {
            values(value, depth.checked_sub(1).ok_or("values nested too deeply")?)?;
        } else if *tag == 0x01 && !matches!(value, [0x00 | 0xff]) {
            return Err("a BOOLEAN that is neither 00 nor FF");
        }
        bytes = behind;
    }
    Ok(())
}

/// The length in front of a value, which must be definite and in its shortest form.
fn length(bytes: &[u8]) -> Result<(usize, &[u8]), &'static str> {
    let (first, rest) = bytes.split_first().ok_or("a value without a length")?;
    let Some(count) = first.checked_sub(0x80) else { return Ok((usize::from(*first), rest)) };
    if count == 0 {
        return Err("a length that is not told (indefinite form)");
    }
    if count > 4 {
        return Err("a length of more than four bytes");
    }
    let (digits, rest) = rest.split_at_checked(usize::from(count)).ok_or("a length that is cut off")?;
    let length = digits.iter().fold(0, |length: usize, digit| length << 8 | usize::from(*digit));
    let shortest = length >= 0x80 && digits.first() != Some(&0);
    if shortest { Ok((length, rest)) } else { Err("a length that is not in its shortest form") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::empty(b"", Ok(()))]
    #[case::null(b"\x05\x00", Ok(()))]
    #[case::nested(b"\x30\x05\x30\x03\x01\x01\xff", Ok(()))]
    #[case::two(b"\x05\x00\x05\x00", Ok(()))]
    #[case::no_length(b"\x30", Err("a value without a length"))]
    #[case::cut(b"\x04\x02a", Err("longer than what is left"))]
    #[case::cut_length(b"\x04\x82\x01", Err("a length that is cut off"))]
    #[case::indefinite(b"\x30\x80\x00\x00", Err("indefinite"))]
    #[case::long_form_of_a_short_length(b"\x04\x81\x01a", Err("shortest form"))]
    #[case::leading_zero(b"\x04\x82\x00\x01a", Err("shortest form"))]
    #[case::endless_length(b"\x04\x85\x00\x00\x00\x00\x01a", Err("more than four bytes"))]
    #[case::ber_true(b"\x01\x01\x01", Err("BOOLEAN"))]
    #[case::ber_true_inside(b"\x30\x03\x01\x01\x7f", Err("BOOLEAN"))]
    #[case::long_tag(b"\x1f\x81\x01\x00", Err("a tag of more than one byte"))]
    fn what_is_not_der_is_told(#[case] bytes: &[u8], #[case] expected: Result<(), &str>) {
        match (check(bytes), expected) {
            (Ok(()), Ok(())) => {}
            (Err(seen), Err(expected)) => {
                assert!(seen.contains(expected), "expected {expected}; seen {seen}");
            }
            (seen, expected) => panic!("expected {expected:?}; seen {seen:?}"),
        }
    }

    #[test]
    fn a_pile_of_sequences_is_refused_and_not_climbed() {
        let pile = (0..20_000).fold(vec![], |inner: Vec<u8>, _| {
            if inner.len() > 100 {
                return inner;
            }
            [vec![0x30, u8::try_from(inner.len()).unwrap()], inner].concat()
        });
        assert_eq!(check(&pile), Err("values nested too deeply"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = check(&bytes);
        }
    }
}
