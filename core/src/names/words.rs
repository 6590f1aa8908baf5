// The words that the table of model names abbreviates: word K is the byte 0x80 + K. The build script
// includes this file to make the table, and the crate includes it to read the table.
//
// They were chosen by their gain over all names of pci.ids, in the way of FSST (Boncz, Neumann, Leis,
// "FSST: Fast Random Access String Compression", 2020). Another list only makes the table larger.
pub(crate) const WORDS: [&str; 128] = [
    " (", " A", " Adapter", " Audio Controller", " Bridge", " C", " Controller", " Controller ",
    " Controller (", " D", " Ethernet ", " Ethernet Controller", " Ethernet Controller [VF", " G",
    " Gigabit Ethernet ", " Host Bridge", " Host Controller", " I", " I2C Controller #",
    " Interfac", " Memory Controller", " P", " PCI ", " PCI Bridge", " PCI Express ",
    " PCI Express Root Port ", " PCI Express Root Port #", " PCIe ", " Processor ", " Registers",
    " S", " SATA Controller", " Serial", " Series ", " Series Chipset Family ", " Series/",
    " Unified Wire", " Unified Wire Sto", " [", " [GeForce ", " [GeForce GT", " [Radeon ",
    " [Radeon HD ", " controller", "-CR Unified Wire", "/Core i7 ", "0 ",
    "0 Series Chipset Family ", "00", "00 Series Chipset ", "10", "100 ", "2 ", "20",
    "20 Series Chipset ", "50", "80", "; Function ", "Atom Processor ", "Chipset ", "Controller",
    "Ethernet ", "Ethernet Controller ", "Family ", "HCI Controller", "I Controller",
    "LPC Controller", "M [GeForce ", "M [GeForce GT", "Mode", "Network Adapter",
    "O I2C Controller #", "PCI", "PCI Express ", "PCI Express Root Port ",
    "PCI Express Root Port #", "PCI-", "PCIe", "Port ", "SATA Controller [", "SPI Controller",
    "SSD Controller", "Series", "Virtual Function", "Xeon ", "Xeon E7 v2/Xeon E5 v2",
    "Xeon E7 v3/Xeon E5 v3", "Xeon E7 v4/Xeon E5 ", "al", "an", "ard", "d Graphics Controller",
    "e ", "e Controller", "e SSD Controller", "el", "en", "er", "er ", "es", "ess ",
    "etwork Adapter", "grated Memory Cont", "grated Memory Contro", "hipset ", "ic", "in", "ion",
    "irtual Function", "it", "nection", "on", "on ", "onnection", "or", "ore Processor", "port ",
    "ra", "rage Controller", "ro", "s Controller", "t ", "te", "ted Graphics Controller",
    "tegrated Memory Cont", "ter", "us Controller", "v4/Xeon E3 v4/Xeon D ",
];

// This byte says that the next byte stands for itself: a byte of a character outside ASCII.
pub(crate) const LITERAL: u8 = 1;
