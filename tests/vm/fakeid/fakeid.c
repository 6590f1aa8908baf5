// SPDX-License-Identifier: GPL-2.0
/*
 * fakeid - PCI functions that have another's vendor, device and class, so that an emulated one passes for a GPU.
 *
 *   insmod fakeid.ko ids=ADDRESS=VENDOR:DEVICE:CLASS[,...]      0000:00:02.0=10de:2330:030200
 *
 * All numbers are hexadecimal. A function that has a driver is refused: the driver was chosen by its own ids. What is
 * changed is the kernel's record of it, which sysfs shows and by which drivers match, not its configuration space.
 * rmmod gives all of them their own ids back.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/device.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/string.h>

#define MOST 32

static char *ids = "";
module_param(ids, charp, 0444);
MODULE_PARM_DESC(ids, "ADDRESS=VENDOR:DEVICE:CLASS, with commas between");

struct identity {
	u16 vendor, device;
	u32 class;
};

static struct {
	struct pci_dev *function;
	struct identity own;
} changed[MOST];
static unsigned int count;

static struct identity swap_identity(struct pci_dev *function, struct identity given)
{
	struct identity before = { function->vendor, function->device, function->class };

	function->vendor = given.vendor;
	function->device = given.device;
	function->class = given.class;
	return before;
}

static int change(const char *text)
{
	unsigned int domain, bus, slot, number, vendor, device, class;
	struct identity given;
	struct pci_dev *function;
	int end = 0;

	if (sscanf(text, "%x:%x:%x.%x=%x:%x:%x%n", &domain, &bus, &slot, &number, &vendor, &device, &class, &end) != 7 ||
	    text[end] || bus > 0xff || slot > 0x1f || number > 7 || vendor > 0xffff || device > 0xffff ||
	    class > 0xffffff || count == MOST) {
		pr_err("not ADDRESS=VENDOR:DEVICE:CLASS, or too many: %s\n", text);
		return -EINVAL;
	}
	function = pci_get_domain_bus_and_slot(domain, bus, PCI_DEVFN(slot, number));
	if (!function) {
		pr_err("no such function: %s\n", text);
		return -ENODEV;
	}
	given = (struct identity){ vendor, device, class };
	/* No driver comes or goes meanwhile. */
	device_lock(&function->dev);
	if (function->dev.driver) {
		pr_err("has a driver, %s: %s\n", function->dev.driver->name, text);
		device_unlock(&function->dev);
		pci_dev_put(function);
		return -EBUSY;
	}
	changed[count].own = swap_identity(function, given);
	device_unlock(&function->dev);
	/* The reference is kept until rmmod. */
	changed[count++].function = function;
	return 0;
}

static void restore(void)
{
	while (count) {
		struct pci_dev *function = changed[--count].function;

		device_lock(&function->dev);
		swap_identity(function, changed[count].own);
		device_unlock(&function->dev);
		pci_dev_put(function);
	}
}

static int __init fakeid_init(void)
{
	char *copy = kstrdup(ids, GFP_KERNEL), *rest = copy, *one;
	int error = copy ? 0 : -ENOMEM;

	while (!error && (one = strsep(&rest, ",")))
		if (*one)
			error = change(one);
	kfree(copy);
	if (error)
		restore();
	return error;
}

static void __exit fakeid_exit(void)
{
	restore();
}

module_init(fakeid_init);
module_exit(fakeid_exit);
MODULE_DESCRIPTION("Test aid: PCI functions with other ids");
MODULE_LICENSE("GPL");
