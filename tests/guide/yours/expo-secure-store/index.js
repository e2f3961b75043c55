// The keychain of a device, which no test has: the two functions that the guide uses, over this process's memory.
const kept = new Map();

export const getItemAsync = async (key) => kept.get(key) ?? null;
export const setItemAsync = async (key, value) => void kept.set(key, value);
