// SPDX-License-Identifier: GPL-2.0
/*
 * fakeid - gives PCI functions other ids (vendor, device, class), so that an emulated function is taken for a GPU.
 *
 *   insmod fakeid.ko ids=ADDRESS=VENDOR:DEVICE:CLASS[,...]      0000:00:02.0=10de:2330:030200
 *
 * All numbers are hexadecimal. A function with a driver is refused, because the driver was matched by the real ids. The
 * module changes the kernel's record of the function (struct pci_dev), which sysfs shows and which drivers match. The
 * configuration space stays as it is. rmmod restores all ids.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/device.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/string.h>

/* The most functions that can be changed. */
#define MAX_CHANGED 32

static char *ids = "";
module_param(ids, charp, 0444);
MODULE_PARM_DESC(ids, "ADDRESS=VENDOR:DEVICE:CLASS, separated by commas");

struct identity {
	u16 vendor, device;
	u32 class;
};

static struct {
	struct pci_dev *function;
	struct identity own;
} changed[MAX_CHANGED];
static unsigned int count;

static struct identity swap_identity(struct pci_dev *function, struct identity new)
{
	struct identity before = { function->vendor, function->device, function->class };

	function->vendor = new.vendor;
	function->device = new.device;
	function->class = new.class;
	return before;
}

static int change(const char *text)
{
	unsigned int domain, bus, slot, number, vendor, device, class;
	struct identity new;
	struct pci_dev *function;
	int end = 0;

	if (sscanf(text, "%x:%x:%x.%x=%x:%x:%x%n", &domain, &bus, &slot, &number, &vendor, &device, &class, &end) != 7 ||
	    text[end] || bus > 0xff || slot > 0x1f || number > 7 || vendor > 0xffff || device > 0xffff ||
	    class > 0xffffff || count == MAX_CHANGED) {
		pr_err("not ADDRESS=VENDOR:DEVICE:CLASS, or too many functions: %s\n", text);
		return -EINVAL;
	}
	function = pci_get_domain_bus_and_slot(domain, bus, PCI_DEVFN(slot, number));
	if (!function) {
		pr_err("no such function: %s\n", text);
		return -ENODEV;
	}
	new = (struct identity){ vendor, device, class };
	/* The lock keeps drivers from binding and unbinding meanwhile. */
	device_lock(&function->dev);
	if (function->dev.driver) {
		pr_err("bound to driver %s, unbind it first: %s\n", function->dev.driver->name, text);
		device_unlock(&function->dev);
		pci_dev_put(function);
		return -EBUSY;
	}
	changed[count].own = swap_identity(function, new);
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
