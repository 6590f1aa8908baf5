// The form of the table of model names. The build script and the crate include this file.
//
// The table is a sequence of blocks, each compressed on its own (raw DEFLATE, RFC 1951). A block has
// the records of models in the order of their ids: vendor and device (2 bytes each, big endian), the
// length of the name (1 byte), the name. The index has 8 bytes for each block: vendor and device of
// its first record, and the position of its end in the blocks (4 bytes, big endian).

/// The most bytes of a block before it is compressed. A lookup expands one block.
pub(crate) const MAX_BLOCK: usize = 8192;
/// The most bytes of a name.
pub(crate) const MAX_NAME: usize = 128;
