/** A service worker that shows notifications where pages may not, as on phones, and opens what they are about. */

addEventListener("notificationclick", (event) => {
  const { address } = event.notification.data;
  event.notification.close();
  event.waitUntil(open(address));
});

/** Show an address in the tab that has it, or in a new one. */
async function open(address) {
  const tabs = await clients.matchAll({ type: "window", includeUncontrolled: true });
  const tab = tabs.find((each) => each.url === address);
  return tab ? tab.focus() : clients.openWindow(address);
}
