//! Reads the fields of a protobuf message from its bytes, one after the other and without a copy.
//!
//! prost's derived messages own every field, so a message of 16 MiB can take 100 times its size. A reader of this module keeps
//! what it needs and skips the rest. The format: <https://protobuf.dev/programming-guides/encoding/>.

/// The bytes are not a protobuf message, or a field has another type than expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Malformed;

/// The value of a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Value<'a> {
    /// A text, a nested message, bytes or packed numbers: wire type 2.
    Bytes(&'a [u8]),
    /// A number: wire types 0, 1 and 5. Nothing here needs one.
    Number,
}

/// The fields of a message, in the order in which they are written. Ends after the first error.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Returns the fields of the message that these bytes are.
    pub(crate) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), Malformed> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => self.varint().map(|_| Value::Number),
            1 => self.take(8).map(|_| Value::Number),
            2 => {
                let length = self.varint()?;
                self.take(usize::try_from(length).map_err(|_| Malformed)?).map(Value::Bytes)
            }
            5 => self.take(4).map(|_| Value::Number),
            // Groups, which no message of the kubelet has, and wire types that do not exist.
            _ => Err(Malformed),
        }?;
        // Zero is no field's number, and the highest one has 29 bits.
        let number = key >> 3;
        if (1..1 << 29).contains(&number) { Ok((number, value)) } else { Err(Malformed) }
    }

    /// Reads a number of up to 10 bytes with 7 bits each, lowest bits first. Bits above 64 are dropped, as in other readers.
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for shift in (0..70).step_by(7) {
            let byte = *self.take(1)?.first().ok_or(Malformed)?;
            number |= u64::from(byte & 0x7f) << shift.min(63);
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

impl<'a> Value<'a> {
    /// Returns the bytes of a text, a nested message or a field of bytes.
    ///
    /// # Errors
    /// The field is a number.
    pub(crate) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Number => Err(Malformed),
        }
    }

    /// Returns the value of a text.
    ///
    /// # Errors
    /// The field is a number, or no UTF-8.
    pub(crate) fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubelet_api::v1beta1::{ContainerAllocateResponse, DeviceSpec};
    use proptest::prelude::*;
    use prost::Message;

    #[test]
    fn fields_of_an_encoded_message_are_read_in_order() {
        let spec = |path: &str| DeviceSpec { host_path: path.into(), ..DeviceSpec::default() };
        let response =
            ContainerAllocateResponse { devices: vec![spec("a"), spec("b")], ..Default::default() };
        let message = response.encode_to_vec();
        let paths: Vec<&str> = Fields::of(&message)
            .map(|field| {
                let (number, value) = field.unwrap();
                assert_eq!(number, 3);
                let mut fields = Fields::of(value.bytes().unwrap());
                fields
                    .find_map(|field| field.ok().filter(|(number, _)| *number == 2))
                    .unwrap()
                    .1
                    .text()
                    .unwrap()
            })
            .collect();
        assert_eq!(paths, ["a", "b"]);
    }

    #[test]
    fn every_wire_type_is_skipped_and_others_refused() {
        let numbers = [&[0x08, 0xff, 1][..], &[0x11, 1, 2, 3, 4, 5, 6, 7, 8], &[0x1d, 1, 2, 3, 4]].concat();
        let read: Vec<_> = Fields::of(&numbers).collect();
        assert_eq!(read, [Ok((1, Value::Number)), Ok((2, Value::Number)), Ok((3, Value::Number))]);
        for malformed in [
            &[0x0b][..],                                                            // a group
            &[0x0e],                                                                // wire type 6
            &[0x02, 0],                                                             // field 0
            &[0x0a, 2, 1],                                                          // cut off
            &[0x08],                                                                // no value
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],       // longer than any memory
            &[0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0], // 11 bytes
        ] {
            let mut fields = Fields::of(malformed);
            assert_eq!(fields.next(), Some(Err(Malformed)), "{malformed:?}");
            assert_eq!(fields.next(), None, "ends after an error");
        }
        assert_eq!(Value::Number.text(), Err(Malformed));
        assert_eq!(Value::Bytes(&[0xff]).text(), Err(Malformed));
    }

    proptest! {
        #[test]
        fn reading_any_bytes_ends(bytes: Vec<u8>) {
            prop_assert!(Fields::of(&bytes).count() <= bytes.len());
        }

        #[test]
        fn texts_are_read_as_prost_reads_them(message: Vec<u8>) {
            let Ok(decoded) = DeviceSpec::decode(&*message) else { return Ok(()) };
            let mut path = String::new();
            for field in Fields::of(&message) {
                // prost reads groups as well; they are malformed here.
                let Ok((number, value)) = field else { return Ok(()) };
                if number == 1 {
                    path = value.text().unwrap().to_owned();
                }
            }
            prop_assert_eq!(path, decoded.container_path);
        }
    }
}
