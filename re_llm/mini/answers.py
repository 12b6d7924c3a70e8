"""What is said in answer, in the miniature text world: templates by emotion and category. Data only.

An answer is a head and a tail. `{t}` is the topic noun. Lists of twelve follow the order of the categories in
`lexicon.CATEGORIES` (household, travel, work, school, food, health, garden, sport, music, weather, celebration,
animals); shorter lists are used in turn.
"""

from __future__ import annotations

EMPATHETIC_HEADS: dict[str, tuple[str, ...]] = {
    "neutral": (
        "Thank you for letting me know about the {t}.",
        "All right, I have taken note of the {t}.",
        "I see, so that is how it went with the {t}.",
    ),
    "sad": (
        "I'm so sorry to hear that about the {t}.",
        "That sounds really sad, the {t} must weigh on you.",
        "My heart goes out to you because of the {t}.",
        "I can feel how much the {t} hurts you.",
    ),
    "angry": (
        "I understand why the {t} makes you angry.",
        "You have every right to be upset about the {t}.",
        "No wonder the {t} is so frustrating for you.",
        "Your anger about the {t} makes complete sense.",
    ),
    "happy": (
        "How wonderful, I'm so happy for you about the {t}!",
        "Your joy about the {t} is contagious!",
        "That is fantastic news about the {t}!",
        "I love how cheerful the {t} makes you!",
    ),
    "surprise": (
        "Wow, the {t} must have taken you by surprise!",
        "Goodness, I didn't see the {t} coming either!",
        "What a surprise, who would have expected the {t}!",
    ),
}

EMPATHETIC_TAILS: dict[str, tuple[str, ...]] = {
    "neutral": (
        "I can help with the next step at home whenever you like.",
        "Just tell me if anything in your plans should change.",
        "I will keep it in mind for the rest of the working day.",
        "Is there anything you would like me to look up?",
        "There is plenty of time for the rest of the meal.",
        "Keep me posted and we will take it step by step.",
        "The rest can be done whenever the day is dry.",
        "We can go through the results later on.",
        "Would you like me to find out more about it?",
        "It is good to know what to expect outside.",
        "I will put it on the list with the other details.",
        "Let me know if you need any further information.",
    ),
    "sad": (
        "Losing the comfort of home is hard. Do you want to talk about it?",
        "Being far away makes it even harder. How are you feeling now?",
        "Be gentle with yourself today. Can I take something off your shoulders?",
        "It is fine to cry, and you are not alone with it.",
        "Small things can hurt a lot. Would it help to tell me more?",
        "I am here and I will listen. What do you need most right now?",
        "Give yourself time to grieve, things do grow again.",
        "Defeat feels lonely sometimes. Who can keep you company tonight?",
        "Tears are allowed here, take all the time you need.",
        "Dark days pass slowly. Would you like some company?",
        "Such days can be painful. What would comfort you a little?",
        "They mean so much to us. Do you want to share a memory?",
    ),
    "angry": (
        "That should not happen in your own home. What would put it right?",
        "Anyone would lose patience on such a trip. Have you complained already?",
        "They should have treated you with more respect. Shall we write to them together?",
        "It was not fair, and your frustration is justified.",
        "You deserved much better than that. What did they say to you?",
        "Nobody should have to put up with that. How can I support you?",
        "Take a deep breath, we will sort it out calmly.",
        "That was not fair play at all. Do you want to let off steam?",
        "Let it all out, I am on your side.",
        "It is maddening when nothing can be done. What bothers you the most?",
        "They really crossed a line there, and you may say so.",
        "Anyone would be furious by now. Who was responsible for it?",
    ),
    "happy": (
        "Enjoy every minute of it in your cosy home.",
        "What are you looking forward to the most?",
        "You have earned it, and you can be proud.",
        "All that effort has paid off. Which part did you like best?",
        "Savour it, you deserve a treat like that.",
        "It is lovely to hear you so full of energy. How will you celebrate?",
        "May it keep on brightening your days.",
        "Well done, that calls for a cheer. Who will you tell first?",
        "Keep that smile and sing along all day.",
        "Moments like that are precious. Will you take a picture?",
        "Have the time of your life, and enjoy it.",
        "They bring so much joy. Can you tell me more?",
    ),
    "surprise": (
        "Things at home can still astonish us. What did you do then?",
        "You never know what a journey brings. How did that happen?",
        "Nobody could have predicted that. What did your team say?",
        "One never stops learning, it seems.",
        "What an unexpected turn. Did you find out the reason?",
        "That must have left you speechless. Are you over the shock by now?",
        "Nature is full of wonders, isn't it?",
        "What a twist in the game. How did everybody react?",
        "I would have been amazed as well.",
        "Such a thing is rarely seen. Where were you at that moment?",
        "It must have been quite a moment for you.",
        "They can be so unpredictable. What happened next?",
    ),
}

PLAIN_REPLIES: dict[str, tuple[str, ...]] = {
    "neutral": ("The {t} is noted, and nothing else is needed.", "Okay, that is clear about the {t}."),
    "sad": ("That is a pity about the {t}, things may improve.", "The {t} seems to be a sad matter."),
    "angry": ("The {t} does sound annoying, you could complain.", "That is an irritating matter with the {t}."),
    "happy": ("Good to hear, the {t} seems to please you.", "That is nice news about the {t}."),
    "surprise": ("The {t} is rather unusual, how did it happen?", "That is an unexpected fact about the {t}."),
}

CONTINUATION_HEADS: dict[str, tuple[str, ...]] = {
    "neutral": (
        "After that I made a short note about the {t}",
        "I will deal with the {t} on another day",
        "So the matter of the {t} is settled for now",
        "I put the {t} on my list as usual",
    ),
    "sad": (
        "I keep crying whenever I think of the {t}",
        "My heart sinks because of the {t}",
        "I feel so lonely and low about the {t}",
        "The {t} has left me with nothing but sorrow",
    ),
    "angry": (
        "I am sick and tired of the {t}",
        "I was shaking with rage because of the {t}",
        "Someone will have to answer to me for the {t}",
        "I have never been so cross as about the {t}",
    ),
    "happy": (
        "I have been smiling about the {t} ever since",
        "I jumped for joy because of the {t}",
        "The {t} has simply made my whole week",
        "I am so pleased and thankful for the {t}",
    ),
    "surprise": (
        "I stared at the {t} with my mouth wide open",
        "I still cannot get over the {t}",
        "I never expected the {t} in my wildest dreams",
        "The {t} came like a bolt from the blue",
    ),
}

CONTINUATION_TAILS: dict[str, tuple[str, ...]] = {
    "neutral": (
        ", and then I went on with my day.",
        ", and the rest can be done later.",
        ", which did not take me very long.",
    ),
    "sad": (
        ", and I wish it had been different.",
        ", and nothing seems to cheer me up.",
        ", and the days feel long and empty.",
    ),
    "angry": (
        ", and I will not accept it any longer.",
        ", and I want somebody to apologise at once.",
        ", and this nonsense must finally stop.",
    ),
    "happy": (
        ", and I want to hug the whole world.",
        ", and tonight we are going to celebrate.",
        ", and I feel like the luckiest person alive.",
    ),
    "surprise": (
        ", and I had to look twice.",
        ", and I am still asking myself how.",
        ", and suddenly everything was different.",
    ),
}
