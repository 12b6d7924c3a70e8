"""Sentences with numbers, dates, times, prices, names and places, which free text has too few of."""

from __future__ import annotations

import random
from collections.abc import Iterator

from re_llm.mini.lexicon import phrases

NAMES = phrases(
    "Anna, Peter, Sophie, Martin, Laura, Daniel, Emily, Oliver, Hannah, Thomas, James, Maria, Ahmed, Fatima, Wei, "
    "Yuki, Priya, Arjun, Carlos, Elena, Omar, Aisha, Kofi, Zoe, Liam, Noah, Olivia, Grace, Henry, Jack, Chloe, Leo, "
    "Nina, Sarah, Michael, David, Susan, Karen, Robert, Linda, Jennifer, Kevin, Brian, Amanda, Rachel, Jason, Ruth, "
    "Frank, Alice, Simon, Claire, Marcus, Diana, Victor, Lucy"
)
SURNAMES = phrases(
    "Smith, Johnson, Miller, Davis, Wilson, Anderson, Taylor, Thompson, Martinez, Robinson, Clark, Lewis, Walker, "
    "Young, King, Wright, Hill, Green, Baker, Nelson, Carter, Mitchell, Turner, Phillips, Campbell, Parker, Evans, "
    "Collins, Stewart, Murphy, Cook, Morgan, Bell, Cooper, Richardson, Cox, Howard, Ward, Kim, Patel, Singh, "
    "Nguyen, Khan, Chen, Lopez, Garcia, Schmidt, Rossi, Novak"
)
PLACES = phrases(
    "London, Paris, Berlin, Madrid, Rome, Vienna, Dublin, Oslo, Lisbon, Athens, Warsaw, Prague, New York, Chicago, "
    "Boston, Houston, Seattle, Denver, Atlanta, Miami, Toronto, Montreal, Mexico City, Tokyo, Seoul, Beijing, "
    "Mumbai, Cairo, Nairobi, Sydney, Melbourne, Auckland, California, Texas, Florida, Scotland, Ireland, Canada, "
    "Australia, Germany, France, Spain, Italy, Japan, India, Brazil, Egypt, Kenya, Sweden, Poland"
)
MONTHS = phrases("January, February, March, April, May, June, July, August, September, October, November, December")
DAYS = phrases("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
THINGS = phrases(
    "apples, eggs, tickets, chairs, books, boxes, pencils, candles, letters, bottles of water, cups of tea, "
    "oranges, plates, photographs, batteries, blankets, sandwiches, stamps, towels, envelopes"
)
SPANS = phrases("minutes, hours, days, weeks, months, years")
TEMPLATES = (
    "My appointment with Doctor {surname} is on {day} at {time}.",
    "Please wake me up at {time} on {day}.",
    "Can you set a timer for {small} {span}?",
    "The train to {place} leaves at {time} from platform {small}.",
    "{name} was born on {month} {ordinal}, {year}.",
    "We moved to {place} in {year}.",
    "It costs ${price}, but I only have ${dollars}.",
    "I paid ${dollars} for {small} {things}.",
    "My flight from {place} to {place2} takes {small} hours and {minutes} minutes.",
    "Call {name} {surname} at {phone}.",
    "My new number is {phone}.",
    "There were {large} people in the stadium in {place}.",
    "The meeting with {name} and {name2} was moved to {day} at {time}.",
    "I live at {number} {surname} Street, near the station.",
    "It was {small} degrees below zero in {place} last {day}.",
    "About {percent}% of my salary goes to rent.",
    "{name} {surname} has worked here since {month} {year}.",
    "Remind me to call {name} on {month} {ordinal}.",
    "How far is it from {place} to {place2}?",
    "Do you know what time it is in {place}?",
    "What is {small} times {number}?",
    "How much is {number} plus {large}?",
    "My teacher {name} is {age} years old, and little {name2} is {small}.",
    "I ran {decimal} kilometres in {minutes} minutes.",
    "The house was built in {year} and sold for ${large}.",
    "I have read {number} pages since {day}.",
    "Could you book a table for {small} on {day} at {time}?",
    "{name} bought {number} {things} and gave {small} of them to {name2}.",
    "The package from {place} should arrive on {month} {ordinal}.",
    "Turn left after {number} metres, then it is the {ordinal} door on the right.",
    "The war ended in {year}, and my grandfather came home to {place}.",
    "I weigh {number} kilos and I am trying to lose {small}.",
    "He scored {small} points in the {ordinal} game of the season.",
    "My bus, the number {number}, was {minutes} minutes late this {day}.",
    "On {day} I met {name} {surname} from {place}.",
    "Room {number} is on the {ordinal} floor.",
    "Add {small} {things} and {number} {things2} to my shopping list.",
    "Is {name} still living in {place}, or has she moved to {place2}?",
    "The temperature will rise to {number} degrees by {day}.",
    "My password expires in {number} {span}.",
    "Between {month} and {month2} we spent ${price} on coffee.",
    "In {year} there were only {small} houses in this village.",
    "{name} {surname} and {name2} {surname2} are getting married in {place} on {month} {ordinal}.",
    "It has been {number} {span} since I talked to {name}.",
)


def _ordinal(number: int) -> str:
    ending = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _time(rng: random.Random) -> str:
    hour, minute = rng.randint(1, 12), rng.choice((0, 0, 10, 15, 20, 30, 30, 45, 50))
    if minute == 0:
        return rng.choice((f"{hour} o'clock", f"{hour} p.m.", f"{hour} a.m.", "noon", "midnight"))
    return f"{hour}:{minute:02d}"


def facts(count: int, seed: int) -> Iterator[str]:
    """`count` filled templates; some may be equal."""
    rng = random.Random(f"facts {seed}")
    for _ in range(count):
        (name, name2), (surname, surname2) = rng.sample(NAMES, 2), rng.sample(SURNAMES, 2)
        (place, place2), (things, things2) = rng.sample(PLACES, 2), rng.sample(THINGS, 2)
        month, month2 = rng.sample(MONTHS, 2)
        yield rng.choice(TEMPLATES).format(
            name=name, name2=name2, surname=surname, surname2=surname2, place=place, place2=place2, things=things,
            things2=things2, month=month, month2=month2, day=rng.choice(DAYS), time=_time(rng),
            span=rng.choice(SPANS), small=rng.randint(2, 12), number=rng.randint(13, 99), minutes=rng.randint(5, 59),
            age=rng.randint(14, 90), ordinal=_ordinal(rng.randint(1, 30)), year=rng.randint(1850, 2025),
            dollars=rng.randint(2, 400), price=f"{rng.randint(2, 80)}.{rng.randint(10, 99)}",
            percent=rng.randint(2, 95), large=rng.choice((100, 1000, 1000)) * rng.randint(1, 30),
            decimal=f"{rng.randint(2, 40)}.{rng.randint(1, 9)}",
            phone=f"{rng.randint(200, 999)} {rng.randint(200, 999)} {rng.randint(1000, 9999)}",
        )  # fmt: skip
